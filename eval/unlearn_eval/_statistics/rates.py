"""Proportions, and the true-positive rate at a low false-positive rate."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from unlearn.errors import DataError, OptionError
from unlearn_eval._statistics.common import (
    Clusters,
    Interval,
    as_values,
    check_level,
    group,
    no_interval,
    t_quantile,
)
from unlearn_eval._statistics.means import mean_error

__all__ = ["nonmembers_needed", "proportion_interval", "tpr_at_fpr"]


def proportion_interval(
    hits: npt.ArrayLike, level: float = 0.95, clusters: Clusters | None = None
) -> Interval:
    """Return the fraction of hits with exact (Clopper–Pearson) limits.

    With clusters the same limits are taken at an effective sample size (Korn and Graubard, Survey
    Methodology 24:193, 1998), n* = p(1 − p)/v · (t_{n−1}/t_{G−1})² and at most n, where v is the
    cluster-robust variance and G the effective number of clusters. At p = 0 or 1, where v is 0,
    n* = G: a cluster counts as one record.

    Args:
        hits: bool (or 0/1), one a record.
        level: confidence level, two-sided; true coverage is at least that.
        clusters: one label a record, such as its subject.

    Returns:
        Method "exact", "cluster" or "conditional".

    Raises:
        DataError: if there are no values, one is not 0 or 1, or labels do not fit.
        OptionError: if the level is not in (0, 1).
    """
    check_level(level)
    array = as_values(hits, "proportion")
    if not np.isin(array, (0.0, 1.0)).all():
        raise DataError("proportion: every value must be yes/no (1 or 0)")
    n, rate = len(array), float(array.mean())
    grouping = group((n, clusters))
    method = grouping.method("exact")
    size = float(n)
    if method == "cluster":
        error = mean_error(array, clusters)
        if rate in (0.0, 1.0):
            size = error.effective
        elif error.standard_error > 0:
            shrink = t_quantile(level, n - 1) / t_quantile(level, error.freedom)
            size = min(n, rate * (1 - rate) * (shrink / error.standard_error) ** 2)
    low, high = _clopper_pearson(rate * size, size, level)
    return Interval(rate, low, high, n, level, method, grouping.clusters, grouping.note)


def nonmembers_needed(fpr: float) -> int:
    """Return the smallest n with 1 − (1 − fpr)^n ≥ 0.95.

    With that many non-members and none above the threshold, the 95 % upper bound of the
    false-positive rate reaches down to `fpr`: 299 for 1 %, 2,995 for 0.1 %.

    Args:
        fpr: the false-positive rate, in (0, 1).

    Returns:
        A number of non-members.

    Raises:
        OptionError: if `fpr` is not in (0, 1).
    """
    if not 0 < fpr < 1:
        raise OptionError(f"false-positive rate {fpr} is not between 0 and 1; 0.01 is usual")
    return math.ceil(math.log(0.05) / math.log1p(-fpr))


def tpr_at_fpr(
    member: npt.ArrayLike,
    nonmember: npt.ArrayLike,
    fpr: float,
    level: float = 0.95,
    member_clusters: Clusters | None = None,
) -> Interval:
    """Return the share of members above a threshold that at most `fpr` of non-members exceed.

    The threshold is the (⌊fpr·n⌋ + 1)-th largest non-member score and must be exceeded strictly, so
    ties never lift the false-positive rate over the limit. The interval takes it as given: it
    says how well this threshold works on further members.

    Args:
        member: scores, larger = more likely a member; ±inf is allowed.
        nonmember: scores on the same scale.
        fpr: false-positive rate allowed, in (0, 1).
        level: confidence level, two-sided.
        member_clusters: one label a member.

    Returns:
        As `proportion_interval` over members; value NaN, with the number that would do in the
        note, if there are fewer than `nonmembers_needed(fpr)` non-members.

    Raises:
        DataError: if a side is empty, a score is NaN, or labels do not fit.
        OptionError: if `fpr` or `level` is not in (0, 1).
    """
    check_level(level)
    x, y = as_values(member, "member"), as_values(nonmember, "nonmember")
    needed = nonmembers_needed(fpr)
    if len(y) < needed:
        clusters = group((len(x), member_clusters)).clusters
        note = f"{len(y)} non-members cannot show a false-positive rate of {fpr:g}; {needed} would"
        return no_interval(math.nan, len(x), level, clusters, note)
    allowed = math.floor(fpr * len(y) * (1 + 1e-12))
    threshold = np.sort(y)[len(y) - 1 - allowed]
    return proportion_interval(x > threshold, level, member_clusters)


def _clopper_pearson(hits: float, size: float, level: float) -> tuple[float, float]:
    """Return exact binomial limits; hits and size need not be whole."""
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, hits, size - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.isf(tail, hits + 1, size - hits)) if hits < size else 1.0
    return low, high
