"""Calibration: is a model right as often as it is sure? Damage often shows here first."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.statistics.common import (
    Clusters,
    Interval,
    as_values,
    check_level,
    group,
    no_interval,
    t_quantile,
)

__all__ = ["BINS", "Calibration", "calibration", "calibration_intervals"]

BINS = 15
"""As in Guo et al. (1706.04599)."""


class Calibration(NamedTuple):
    """Calibration of a model's first choices over some tokens.

    Attributes:
        error: expected calibration error, in [0, 1].
        brier: mean (probability of the first choice − whether it is right)², in [0, 1].
        confidence: mean probability of the first choice.
        accuracy: share of tokens whose first choice is right.
        n: tokens.
        bins: bins used; fewer than asked for where tokens are few or confidences repeat.
    """

    error: float
    brier: float
    confidence: float
    accuracy: float
    n: int
    bins: int


def calibration(confidence: npt.ArrayLike, hit: npt.ArrayLike, bins: int = BINS) -> Calibration:
    """Return the expected calibration error over bins of equal mass, and the Brier score.

    With tokens sorted by confidence c and cut into B bins of as equal a size as possible,

        ECE = Σ_b (n_b/N) |mean of hit in b − mean of c in b|
        Brier = (1/N) Σ_t (c_t − hit_t)²

    ECE is equation 3 of Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599),
    whose 15 bins are the default; theirs are of equal width, which leaves most of them empty for
    language models: equal mass is from Nguyen and O'Connor (arXiv 1508.05154, "adaptive binning").
    The Brier score is of the first choice alone, not of the whole distribution.

    Limits: tokens of equal confidence share a bin, so that the result does not depend on their
    order; one bin gives |accuracy − mean confidence|; with a token a bin it is the mean of
    |c − hit|. With few tokens a bin the error is biased upwards: compare it between models on the
    same tokens only.

    Args:
        confidence: probability of the model's first choice, [N], in [0, 1].
        hit: whether that is the true token, bool [N].
        bins: B.

    Returns:
        The numbers.

    Raises:
        DataError: if there are no tokens, lengths differ, or a confidence is no probability.
        OptionError: if there is not at least one bin.
    """
    if bins < 1:
        raise OptionError(f"{bins} bins; give 1 or more, 15 is usual")
    c, right = as_values(confidence, "confidence"), as_values(hit, "hit")
    if c.shape != right.shape:
        raise DataError(f"{len(c)} confidences for {len(right)} hits; give one each a token")
    # float32 rounding lifts a probability of 1 a little above it
    if c.min() < 0 or c.max() > 1 + 1e-6:
        raise DataError("a confidence is not between 0 and 1; give probabilities, not logarithms")
    if not np.isin(right, (0.0, 1.0)).all():
        raise DataError("hits must be yes/no (1 or 0)")
    place = _bins(c, bins)
    gaps = np.bincount(place, right - c)
    return Calibration(
        error=float(np.abs(gaps).sum()) / len(c),
        brier=float(np.mean((c - right) ** 2)),
        confidence=float(c.mean()),
        accuracy=float(right.mean()),
        n=len(c),
        bins=len(np.unique(place)),
    )


def calibration_intervals(
    scores: TokenScores, level: float = 0.95, clusters: Clusters | None = None, bins: int = BINS
) -> dict[str, Interval]:
    """Return `ece` and `brier` over all target tokens of some records, with intervals.

    Tokens of one record are not independent, so the unit is the record, or its cluster. With the
    bins as they are, g_b = (1/N) Σ_{t∈b} (hit_t − c_t) is a ratio of sums over units, whose
    linearised residuals are e_ub = (its sum in b − n_u g_b) / N. ECE = Σ_b |g_b| has the standard
    error of Σ_u Σ_b sign(g_b) e_ub. But noise alone makes |g_b| larger, most where g_b is 0: by
    √(2/π) se_b there. So

        [ max(0, ECE − √(2/π) Σ_b se_b − t·se), min(1, ECE + t·se) ]

    is an interval for the calibration error in these bins that errs on the wide side downwards: a
    calibrated model is not called miscalibrated for having few tokens. t has one degree of freedom
    less than there are (effective) units. The Brier score is a mean over tokens, treated alike.
    This interval is the project's own; its coverage is simulated in the tests.

    Args:
        scores: of some records, with `top`.
        level: confidence level, two-sided.
        clusters: one label a record, such as its subject.
        bins: B.

    Returns:
        Both estimates; method "t", "cluster" or "conditional", "none" for one record. `n` counts
        records.

    Raises:
        DataError: if the scores lack `top`, hold no record, or labels do not fit.
        OptionError: if the level is not in (0, 1) or there is not at least one bin.
    """
    check_level(level)
    if scores.top is None or not scores.records:
        raise DataError("calibration needs the probability of the first choice of some tokens")
    c = np.minimum(np.exp(scores.top), 1.0)
    right = scores.hit.astype(np.float64)
    estimates = calibration(c, right, bins)
    grouping = group((scores.records, clusters))
    method = grouping.method("t")
    unit = grouping if method == "cluster" else grouping.by_record()
    values = {"ece": estimates.error, "brier": estimates.brier}
    if len(np.unique(unit.codes[0])) < 2:
        note = "one record does not show how much records vary"
        return {
            name: no_interval(value, scores.records, level, grouping.clusters, note)
            for name, value in values.items()
        }
    owner = np.repeat(unit.codes[0], scores.lengths)
    place = _bins(c, bins)
    t = t_quantile(level, unit.effective[0] - 1)
    errors = _errors(owner, place, right - c)
    means = np.bincount(place, right - c) / len(c)
    noise = math.sqrt(2 / math.pi) * float(np.sqrt((errors**2).sum(axis=0)).sum())
    spread = t * math.sqrt(float(((errors @ np.sign(means)) ** 2).sum()))
    of_brier = _errors(owner, np.zeros_like(place), (c - right) ** 2)
    brier = t * math.sqrt(float((of_brier**2).sum()))
    limits = {
        "ece": (estimates.error - noise - spread, estimates.error + spread),
        "brier": (estimates.brier - brier, estimates.brier + brier),
    }
    return {
        name: Interval(
            values[name],
            max(0.0, low),
            min(1.0, high),
            scores.records,
            level,
            method,
            grouping.clusters,
            grouping.note,
        )
        for name, (low, high) in limits.items()
    }


def _bins(confidence: FloatArray, bins: int) -> IntArray:
    """Return the bin of every token: of equal mass, equal values together."""
    order = np.argsort(confidence, kind="stable")
    # a value belongs to the bin of its first occurrence
    _, first, which = np.unique(confidence[order], return_index=True, return_inverse=True)
    place = np.empty(len(confidence), dtype=np.int64)
    place[order] = (first * bins // len(confidence))[which]
    return place


def _errors(owner: IntArray, place: IntArray, values: FloatArray) -> FloatArray:
    """Return what each unit adds to the error of Σ_{t∈b} v_t / N of each bin, [U, B].

    The sum of squares of a column estimates the variance of its bin.
    """
    units = np.unique(owner, return_inverse=True)[1]
    shape = (int(units.max()) + 1, int(place.max()) + 1)
    sums = np.zeros(shape)
    np.add.at(sums, (units, place), values)
    sizes = np.bincount(units)
    residuals = (sums - sizes[:, None] * (sums.sum(axis=0) / len(values))) / len(values)
    errors: FloatArray = residuals * math.sqrt(shape[0] / (shape[0] - 1))
    return errors
