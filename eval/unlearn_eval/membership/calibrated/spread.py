"""Check what attacks with reference models take: scores under K models, and who saw what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError
from unlearn_eval.arrays import BoolArray, FloatArray

__all__ = ["levels", "reference_scores"]


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


def levels(scores: npt.ArrayLike, member: npt.ArrayLike) -> FloatArray:
    """Return each model's level on records that it did not see, least squares over all of them.

    Minimises Σ (s_kr − α_k − β_r)² over the records r that model k did not see and gives finite
    scores: a model trained on less, or on other records, is likelier or less likely about all that
    it never saw, which α takes up, while β is what records differ by. With records that no model
    saw, α_k − α_j is the difference of their means. Without β, a model that happened not to see the
    easy records would seem to be a better one.

    Args:
        scores: [K, R], of K models.
        member: bool [K, R], which models saw a record.

    Returns:
        float64[K], α with mean 0.

    Raises:
        DataError: if some model saw all the records.
    """
    values = np.asarray(scores, dtype=np.float64)
    unseen = ~np.asarray(member, dtype=bool) & np.isfinite(values)
    if not unseen.any(axis=1).all():
        model = int(np.argmin(unseen.any(axis=1)))
        raise DataError(
            f"model {model} (from 0) saw every unseen record that it could be compared by; give "
            "--holdout records that were not in its training"
        )
    weights = unseen.astype(np.float64)
    count = np.maximum(weights.sum(axis=0), 1.0)
    values = np.where(unseen, values, 0.0)
    # β_r is the mean over models of s − α; what is left are K equations of rank K − 1
    normal = np.diag(weights.sum(axis=1)) - (weights / count) @ weights.T
    right = np.where(unseen, values - values.sum(axis=0) / count, 0.0).sum(axis=1)
    estimates: FloatArray = np.linalg.lstsq(normal, right, rcond=None)[0]
    estimates -= estimates.mean()
    return estimates


def _first(wrong: BoolArray) -> str:
    """Name the first record at fault."""
    return f"{int(np.argmax(wrong))} (from 0)"
