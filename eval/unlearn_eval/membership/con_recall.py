"""Con-ReCaLL: contrast what a prefix of unseen records does with what one of members does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership.recall import relative

__all__ = ["GAMMA", "PAPER", "SUMMARY", "score"]

PAPER = "https://arxiv.org/abs/2409.03363"
SUMMARY = "ReCaLL minus a share of the same with a prefix of records that were trained on"

GAMMA = 0.5
"""Weight of the member prefix: the middle of the values 0.1 … 1 that the authors' code tries."""


def score(
    nonmember: npt.ArrayLike,
    member: npt.ArrayLike,
    plain: npt.ArrayLike,
    *,
    gamma: float = GAMMA,
) -> FloatArray:
    """Return (LL(x | P⁻) − γ LL(x | P⁺)) / LL(x) of every record.

    Wang et al., "Con-ReCaLL" (arXiv 2409.03363): P⁻ is a prefix of non-members, which costs members
    the most, and P⁺ one of members, which costs non-members the most.

    Args:
        nonmember: [R], mean log-probabilities after P⁻, in nats; −∞ allowed.
        member: [R], the same after P⁺.
        plain: [R], the same without a prefix.
        gamma: γ ≥ 0; 0 gives ReCaLL.

    Returns:
        float64[R]; larger = more likely a member.

    Raises:
        DataError: if shapes differ or a value is NaN, or both prefixes, but not the record by
            itself, rule a record out.
    """
    first = relative("con_recall", nonmember, plain)
    if gamma == 0:
        return first
    second = relative("con_recall", member, plain)
    wrong = np.isinf(first) & np.isinf(second)
    if wrong.any():
        raise DataError(
            f"attack 'con_recall': both prefixes rule record {int(np.argmax(wrong))} (from 0) out, "
            "so it has no score; leave it out"
        )
    scores: FloatArray = first - gamma * second
    return scores
