"""Sampling for real: does the model give a record as often as teacher forcing says it would?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray, IntArray

__all__ = ["PAPER", "SUMMARY", "Agreement", "agreement"]

PAPER = "https://arxiv.org/abs/2410.19482"
SUMMARY = "how often sampled answers are the target exactly, against what teacher forcing predicts"


class Agreement(NamedTuple):
    """Sampled hits against predicted probabilities.

    Attributes:
        rate: float64[R], hits / n.
        predicted: float64[R], p_z.
        p_value: float64[R], two-sided exact binomial test of each record.
        overall: two-sided p-value for all records together.
    """

    rate: FloatArray
    predicted: FloatArray
    p_value: FloatArray
    overall: float


def agreement(hits: npt.ArrayLike, n: int, log_prob: npt.ArrayLike) -> Agreement:
    """Compare hits in n sampled answers with p_z, the probability of the target when sampled so.

    Of each record, hits ~ Binomial(n, p_z) (Hayes et al., arXiv 2410.19482, which reports the
    predicted number without sampling). Over records, the sum of hits is compared with Σ n p_z by a
    normal approximation, exact where all p_z are 0 or 1. A p-value near 0 means that sampling and
    teacher forcing disagree: another sampler, template or end of text in one of them.

    Args:
        hits: [R], answers that were the target exactly.
        n: answers sampled of each record.
        log_prob: [R], log p_z in nats for the same sampler; −∞ allowed.

    Returns:
        The comparison.

    Raises:
        DataError: if shapes differ, or hits are not whole numbers from 0 to n.
    """
    given, log_p = np.asarray(hits), np.minimum(np.asarray(log_prob, dtype=np.float64), 0.0)
    if given.shape != log_p.shape or given.ndim != 1:
        raise DataError(f"{given.shape} hits do not fit {log_p.shape} log-probabilities")
    counts: IntArray = given.astype(np.int64)
    if n < 1 or (counts != given).any() or (counts < 0).any() or (counts > n).any():
        raise DataError(f"hits must be whole numbers from 0 to {n} answers, at least one")
    p = np.exp(log_p)
    values = [stats.binomtest(int(k), n, q).pvalue for k, q in zip(counts, p, strict=True)]
    spread = float(np.sqrt((n * p * (1 - p)).sum()))
    off = abs(float(counts.sum() - (n * p).sum()))
    overall = 2 * float(stats.norm.sf(off / spread)) if spread else float(off < 1e-9 * n)
    return Agreement(counts / n, p, np.array(values, dtype=np.float64), overall)
