"""Check what attacks with reference models take: scores under K models, and who saw what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError
from unlearn_eval._arrays import BoolArray, FloatArray

__all__ = ["reference_scores"]


def reference_scores(
    attack: str,
    target: npt.ArrayLike,
    references: npt.ArrayLike,
    member: npt.ArrayLike | None = None,
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return the scores as arrays, checked.

    Args:
        attack: the name of the attack that asks, for messages.
        target: [R], one score a record in the audited model; ±inf is allowed.
        references: [K, R], the same score under each of K reference models.
        member: bool [K, R], whether reference k was trained on record r (IN); None if none was.

    Returns:
        float64[R], float64[K, R], bool[K, R].

    Raises:
        DataError: if shapes do not fit, a score is NaN, or a reference's is infinite.
    """
    x, others = np.asarray(target, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if x.ndim != 1 or others.ndim != 2 or not len(others) or others.shape[1] != len(x):
        raise DataError(
            f"attack {attack!r} needs target scores [records] and reference scores [models, "
            f"records], not shapes {x.shape} and {others.shape}"
        )
    inside = np.zeros(others.shape, dtype=bool) if member is None else np.asarray(member)
    if inside.shape != others.shape or inside.dtype != np.bool_:
        raise DataError(
            f"attack {attack!r}: membership must be true or false for each of {others.shape} "
            f"reference scores, not {inside.dtype} of shape {inside.shape}"
        )
    if np.isnan(x).any():
        raise DataError(f"attack {attack!r}: the score of record {_first(np.isnan(x))} is NaN")
    wrong: BoolArray = np.any(~np.isfinite(others), axis=0)
    if wrong.any():
        raise DataError(
            f"attack {attack!r}: a reference gives record {_first(wrong)} no finite score; leave "
            "the record or the reference out"
        )
    return x, others, inside


def _first(wrong: BoolArray) -> str:
    """Name the first record at fault."""
    return f"{int(np.argmax(wrong))} (from 0)"
