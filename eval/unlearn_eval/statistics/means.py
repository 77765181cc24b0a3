"""Means: intervals, paired differences and equivalence, by record or by cluster."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.statistics.clusters import mean_variance
from unlearn_eval.statistics.common import (
    Clusters,
    Interval,
    as_values,
    check_level,
    group,
    t_quantile,
)

__all__ = [
    "Equivalence",
    "MeanError",
    "check_equivalence",
    "mean_error",
    "mean_interval",
    "paired_difference",
]


class MeanError(NamedTuple):
    """How far a mean may be off.

    Attributes:
        standard_error: of the mean; NaN if it cannot be estimated.
        freedom: degrees of freedom of the standard error.
        effective: independent units behind it: records, or effective clusters.
        method: "t", "cluster", "conditional" or "none".
        clusters: different clusters, None if none were given.
        note: why there is no standard error, or why it ignores clusters.
    """

    standard_error: float
    freedom: float
    effective: float
    method: str
    clusters: int | None
    note: str


class Equivalence(NamedTuple):
    """Outcome of two one-sided tests: does a mean lie within ±margin, or an AUC within ½ ± margin?

    Attributes:
        value: the mean, or the AUC.
        low: lower limit of the interval at level 1 − 2α.
        high: its upper limit.
        margin: what was tested against.
        p_value: the larger of the two one-sided p-values; NaN if there is no standard error.
        equivalent: whether p < α, that is, whether the interval lies within the margin.
        n: records; of an AUC, the members.
        method: as of the interval; a "conditional" outcome is not for a verdict.
        clusters: different clusters, None if none were given.
        note: what a reader must know besides.
    """

    value: float
    low: float
    high: float
    margin: float
    p_value: float
    equivalent: bool
    n: int
    method: str
    clusters: int | None
    note: str


def mean_error(values: FloatArray, clusters: Clusters | None = None) -> MeanError:
    """Return the standard error of a mean, and what to compare it with.

    Var = Σ_g [Σ_{i∈g} (x_i − x̄)]² / (n² c_g), with c_g as in `influence`: s²/n without clusters,
    and the usual G/(G − 1) correction for clusters of equal size. Degrees of freedom are 1/Σ p_g² −
    1 for shares p_g of the records, which is n − 1 or G − 1 there: with 10 clusters of log-normal
    sizes and G − 1, nominal 95 % would cover 89 %.

    Args:
        values: float64[n].
        clusters: one label a record.

    Returns:
        The standard error; NaN with a note for one record, or if a value is infinite.

    Raises:
        DataError: if there is not one label a record.
    """
    grouping = group((len(values), clusters))
    method = grouping.method("t")
    unit = grouping if method == "cluster" else grouping.by_record()
    note = ""
    if not np.isfinite(values).all():
        note = "a value is infinite"
    elif len(values) < 2:
        note = "one record does not show how much records vary"
    if note:
        return MeanError(math.nan, math.nan, 1.0, "none", grouping.clusters, note)
    error = mean_variance(values, unit)
    return MeanError(
        standard_error=math.sqrt(error.value),
        freedom=error.plain,
        effective=unit.effective[0],
        method=method,
        clusters=grouping.clusters,
        note=grouping.note,
    )


def mean_interval(
    values: npt.ArrayLike, level: float = 0.95, clusters: Clusters | None = None
) -> Interval:
    """Return x̄ ± t · standard error, as in `mean_error`.

    Args:
        values: one a record.
        level: confidence level, two-sided.
        clusters: one label a record, such as its subject.

    Returns:
        Method "t", "cluster" or "conditional"; "none" for one record or infinite values.

    Raises:
        DataError: if there are no values, one is NaN, or labels do not fit.
        OptionError: if the level is not in (0, 1).
    """
    check_level(level)
    array = as_values(values, "mean")
    error = mean_error(array, clusters)
    mean = _mean(array)
    # NaN where there is no standard error
    half = t_quantile(level, error.freedom) * error.standard_error
    return Interval(
        mean, mean - half, mean + half, len(array), level, error.method, error.clusters, error.note
    )


def paired_difference(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    level: float = 0.95,
    clusters: Clusters | None = None,
) -> Interval:
    """Return the mean of first − second over the same records, with its interval.

    Args:
        first: one value a record.
        second: one value for each of the same records, in the same order.
        level: confidence level, two-sided.
        clusters: one label a record.

    Returns:
        As `mean_interval` of the differences.

    Raises:
        DataError: if lengths differ, a value is NaN, or a record is infinite on both sides.
        OptionError: if the level is not in (0, 1).
    """
    a, b = as_values(first, "first"), as_values(second, "second")
    if a.shape != b.shape:
        raise DataError(f"paired values must be of the same records: {len(a)} against {len(b)}")
    if (np.isinf(a) & (a == b)).any():
        record = int(np.argmax(np.isinf(a) & (a == b)))
        raise DataError(f"paired values {record} (from 0) are both {a[record]}: no difference")
    return mean_interval(a - b, level, clusters)


def check_equivalence(margin: float, alpha: float) -> None:
    """Refuse a margin or an error rate that no equivalence test can have.

    Args:
        margin: largest difference that does not matter.
        alpha: how often a difference at the margin may be called equivalent.

    Raises:
        OptionError: if the margin is not positive or α not in (0, ½).
    """
    if not margin > 0:
        raise OptionError(f"equivalence margin {margin} is not positive")
    if not 0 < alpha < 0.5:
        raise OptionError(f"alpha {alpha} is not between 0 and 0.5; 0.05 is usual")


def _mean(values: FloatArray) -> float:
    """Return the mean; NaN without a warning when both infinities occur."""
    if np.isposinf(values).any() and np.isneginf(values).any():
        return math.nan
    return float(values.mean())
