"""Tests: Kolmogorov–Smirnov, corrections for several tests, limits from a few references."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.statistics.common import Interval, as_values, check_level

__all__ = [
    "KsTest",
    "PredictionLimits",
    "holm",
    "holm_intervals",
    "ks_exact",
    "prediction_limits",
]


class KsTest(NamedTuple):
    """Outcome of a two-sample Kolmogorov–Smirnov test.

    Attributes:
        statistic: largest distance between the two empirical distribution functions.
        p_value: two-sided, exact.
    """

    statistic: float
    p_value: float


class PredictionLimits(NamedTuple):
    """How far from the mean of k references a value may lie, in their standard deviations.

    Attributes:
        equivalent: c; within it the value is shown to lie inside the margin.
        different: beyond it the value is shown to be no further reference.
        power: probability that a further reference falls within c.
    """

    equivalent: float
    different: float
    power: float


def ks_exact(first: npt.ArrayLike, second: npt.ArrayLike) -> KsTest:
    """Return the two-sided two-sample Kolmogorov–Smirnov test with its exact p-value.

    Exact for continuous values; with ties the p-value is too large rather than too small.

    Args:
        first: one value a record.
        second: one value a record of another sample.

    Returns:
        Statistic and p-value.

    Raises:
        DataError: if a sample is empty, holds NaN, or the two are too large for exact counting.
    """
    a, b = as_values(first, "first sample"), as_values(second, "second sample")
    with warnings.catch_warnings():
        # scipy would fall back to an approximation
        warnings.simplefilter("error", RuntimeWarning)
        try:
            result = stats.ks_2samp(a, b, alternative="two-sided", method="exact")
        except RuntimeWarning as warning:
            raise DataError(
                f"samples of {len(a)} and {len(b)} are too large for an exact Kolmogorov–Smirnov "
                "test; draw fewer records"
            ) from warning
    return KsTest(float(result.statistic), float(result.pvalue))


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Return Holm's adjusted p-values: all those below α hold at once with error at most α.

    The j-th smallest (from 0) of m becomes max over i ≤ j of min(1, (m − i) p_i); Holm (Scand. J.
    Statist. 6:65, 1979).

    Args:
        p_values: [m], of any dependence.

    Returns:
        float64[m], in the given order.

    Raises:
        DataError: if there are none or one is not in [0, 1].
    """
    p = _p_values(p_values)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order])
    return np.minimum(adjusted, 1.0)


def holm_intervals(
    make: Sequence[Callable[[float], Interval]],
    low: float,
    high: float,
    level: float = 0.95,
) -> list[Interval]:
    """Return one interval a probe, adjusted so that all decisions by them hold at once.

    A probe is decided against if its interval lies wholly above `high` or wholly below `low`.
    Holm's step-down (Scand. J. Statist. 6:65, 1979): while r probes are undecided, each gets an
    interval at level 1 − (1 − level)/r; those outside are decided, and the rest are tried again
    with r smaller, until none is. If the intervals cover, some probe whose true value lies within
    [low, high] is decided against with probability at most 1 − level. A decided probe keeps the
    wide interval that decided it; coverage of all intervals at once is not claimed.

    Args:
        make: for each probe, the interval at a level; wider for higher levels.
        low: lower end of what does not matter.
        high: its upper end.
        level: at which all decisions hold together.

    Returns:
        Intervals in the given order. Their `level` says how far each was adjusted.

    Raises:
        DataError: if there are no probes.
        OptionError: if low > high or the level is not in (0, 1).
    """
    check_level(level)
    if not make:
        raise DataError("no probe to adjust intervals for")
    if not low <= high:
        raise OptionError(f"nothing lies between {low} and {high}; give the lower end first")
    intervals: dict[int, Interval] = {}
    undecided = list(range(len(make)))
    while undecided:
        tried = {i: make[i](1 - (1 - level) / len(undecided)) for i in undecided}
        intervals |= tried
        still = [i for i in undecided if not (tried[i].low > high or tried[i].high < low)]
        if len(still) == len(undecided):
            break
        undecided = still
    return [intervals[i] for i in range(len(make))]


@lru_cache(maxsize=1024)
def prediction_limits(
    k: int, margin: float = 4.0, alpha: float = 0.05, freedom: float | None = None
) -> PredictionLimits:
    """Return the limits for |T − mean|/s, mean over k references and s with ν degrees of freedom.

    equivalent = c = √(1 + 1/k)·q with q solving P(|t'_ν(margin/√(1 + 1/k))| ≤ q) = α, so that a
    value `margin` true standard deviations away falls within c with probability α only;
    different = t_{1−α/2, ν}·√(1 + 1/k), exceeded by a further reference with probability α.
    A verdict of "different" also asks for more than c.

    Args:
        k: number of references, at least 2.
        margin: largest distance that does not matter, in standard deviations of the references.
        alpha: error of either conclusion.
        freedom: ν; by default k − 1, as s over the references has; more where s borrows from others
            (`moderated`).

    Returns:
        Both limits, and the power of "equivalent".

    Raises:
        OptionError: if there are fewer than 2 references, or margin or α is out of range.
    """
    if k < 2:
        raise OptionError(f"{k} reference(s) do not show how much references vary; give 2 or more")
    if not 0 < margin < math.inf:
        raise OptionError(f"margin {margin} is not a positive number of standard deviations")
    if not 0 < alpha < 1:
        raise OptionError(f"alpha {alpha} is not between 0 and 1; 0.05 is usual")
    nu = k - 1 if freedom is None else freedom
    scale = math.sqrt(1 + 1 / k)
    # |t'(δ)| ≤ q is F'(1, ν; δ²) ≤ q²; scipy's noncentral t itself gives NaN for some arguments
    q = math.sqrt(stats.ncf.ppf(alpha, 1, nu, (margin / scale) ** 2))
    different = float(stats.t.isf(alpha / 2, nu)) * scale
    power = 1 - 2 * float(stats.t.sf(q, nu))
    return PredictionLimits(q * scale, different, power)


def _p_values(values: npt.ArrayLike) -> FloatArray:
    """Return p-values as an array, refusing what is none."""
    p = as_values(values, "p-values")
    if p.min() < 0 or p.max() > 1:
        raise DataError("p-values must lie between 0 and 1")
    return p
