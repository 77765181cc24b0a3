"""ReCaLL: members lose the most likelihood when the model is shown unseen records first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray

__all__ = ["PAPER", "SUMMARY", "relative", "score"]

PAPER = "https://arxiv.org/abs/2406.15968"
SUMMARY = "log-likelihood after a prefix of unseen records, relative to that without it"

# 1 − p of float32 is no finer than this: a mean closer to 0 is certainty.
_CERTAIN = 1e-7


def score(conditional: npt.ArrayLike, plain: npt.ArrayLike) -> FloatArray:
    """Return LL(x | P) / LL(x) of every record, P a prefix of non-members.

    Xie et al., "ReCaLL" (arXiv 2406.15968): LL is the mean log-probability of the record's tokens,
    and non-member context lowers it more for members. Limits: 1 where the prefix changes nothing,
    certainty and impossibility included; +∞ where the prefix alone rules the record out; 0 where
    only the record by itself is ruled out.

    Args:
        conditional: [R], mean log-probabilities after the prefix, in nats; −∞ allowed.
        plain: [R], the same without it.

    Returns:
        float64[R] ≥ 0; larger = more likely a member.

    Raises:
        DataError: if shapes differ or a value is NaN.
    """
    return relative("recall", conditional, plain)


def relative(attack: str, conditional: npt.ArrayLike, plain: npt.ArrayLike) -> FloatArray:
    """Return LL(x | P) / LL(x), for attacks made of it.

    Args:
        attack: the name of the attack that asks, for messages.
        conditional: [R], mean log-probabilities after the prefix.
        plain: [R], the same without it.

    Returns:
        float64[R] ≥ 0.

    Raises:
        DataError: if shapes differ or a value is NaN.
    """
    with_prefix = np.minimum(np.asarray(conditional, dtype=np.float64), -_CERTAIN)
    without = np.minimum(np.asarray(plain, dtype=np.float64), -_CERTAIN)
    if with_prefix.shape != without.shape or with_prefix.ndim != 1:
        raise DataError(
            f"attack {attack!r} needs one likelihood a record with and without the prefix, not "
            f"shapes {with_prefix.shape} and {without.shape}"
        )
    wrong = np.isnan(with_prefix) | np.isnan(without)
    if wrong.any():
        raise DataError(f"attack {attack!r}: record {int(np.argmax(wrong))} (from 0) has NaN")
    same = with_prefix == without
    return np.where(same, 1.0, with_prefix / np.where(same, -1.0, without))
