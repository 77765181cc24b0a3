"""Neighbourhood: members are likelier than copies of them in which a few tokens were changed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray

__all__ = ["PAPER", "SUMMARY", "score"]

PAPER = "https://arxiv.org/abs/2305.18462"
SUMMARY = "mean log-probability minus that of copies with a few other tokens"


def score(plain: npt.ArrayLike, neighbours: npt.ArrayLike) -> FloatArray:
    """Return LL(x) − (1/n) Σ_i LL(x̃_i) of every record.

    Mattern et al., "Membership Inference Attacks against Language Models via Neighbourhood
    Comparison" (arXiv 2305.18462), with losses negated. Limits: a record that the model rules out,
    as it does its copies, has 0; +∞ where it rules out a copy only, −∞ where only the record.

    Args:
        plain: [R], mean log-probabilities of the records, in nats; −∞ allowed.
        neighbours: [R, n], the same of n ≥ 1 changed copies of each.

    Returns:
        float64[R]; larger = more likely a member.

    Raises:
        DataError: if shapes do not fit or a value is NaN.
    """
    x, others = np.asarray(plain, dtype=np.float64), np.asarray(neighbours, dtype=np.float64)
    if x.ndim != 1 or others.ndim != 2 or len(others) != len(x) or not others.shape[1]:
        raise DataError(
            "attack 'neighbourhood' needs likelihoods of records [R] and of copies [R, n], not "
            f"shapes {x.shape} and {others.shape}"
        )
    wrong = np.isnan(x) | np.isnan(others).any(axis=1)
    if wrong.any():
        raise DataError(f"attack 'neighbourhood': record {int(np.argmax(wrong))} (from 0) has NaN")
    mean = others.mean(axis=1)
    same = x == mean
    return np.where(same, 0.0, np.where(same, 0.0, x) - np.where(same, 0.0, mean))
