"""Proportions, and the true-positive rate at a low false-positive rate."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.statistics.clusters import mean_variance
from unlearn_eval.statistics.common import (
    Clusters,
    Interval,
    as_values,
    check_level,
    group,
    no_interval,
    t_quantile,
)
from unlearn_eval.statistics.sizes import nonmembers_needed

__all__ = ["clopper_pearson", "proportion_interval", "tpr_at_fpr", "wilson"]


def proportion_interval(
    hits: npt.ArrayLike, level: float = 0.95, clusters: Clusters | None = None
) -> Interval:
    """Return the fraction of hits with exact (Clopper–Pearson) limits, or Wilson's for clusters.

    With clusters the limits are Wilson's (J. Am. Stat. Assoc. 22:209, 1927) with a t quantile, at
    the sample size n* = p(1 − p)/v, at most n, of the same variance; v and its degrees of freedom
    are those of `mean_variance`. Clopper and Pearson's limits at n* (Korn and Graubard, Survey
    Methodology 24:193, 1998) cover more where hits are rare and no better elsewhere. They are used
    at p = 0 or 1, where v is 0, with the effective number of clusters: a cluster counts as one
    record.

    Simulated coverage of nominal 95 % with 10 or more clusters, equal, geometric or log-normal in
    size, of intra-class correlation .3: 93 to 97 % for rates of .1 to .5; up to 99 % for rarer
    hits, where most samples have none. Exact limits cover 95 % or more by construction.

    Args:
        hits: bool (or 0/1), one a record.
        level: confidence level, two-sided.
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
    if method == "cluster":
        effective = grouping.effective[0]
        if rate in (0.0, 1.0):
            low, high = clopper_pearson(rate * effective, effective, level)
        else:
            error = mean_variance(array, grouping)
            low, high = wilson(rate, n, error.value, error.freedom, level)
    else:
        low, high = clopper_pearson(rate * n, float(n), level)
    return Interval(rate, low, high, n, level, method, grouping.clusters, grouping.note)


def wilson(
    rate: float, n: int, variance: float, freedom: float, level: float
) -> tuple[float, float]:
    """Return Wilson's limits at an effective sample size: all θ with (p − θ)² ≤ t² θ(1 − θ)/n*.

    Args:
        rate: p, strictly between 0 and 1.
        n: records, an upper bound of n*.
        variance: of p; n* = p(1 − p)/variance.
        freedom: degrees of freedom of that variance.
        level: confidence level, two-sided.

    Returns:
        Lower and upper limit.
    """
    size = min(float(n), rate * (1 - rate) / variance) if variance > 0 else float(n)
    shrink = t_quantile(level, freedom) ** 2 / size
    centre = (rate + shrink / 2) / (1 + shrink)
    half = math.sqrt(shrink * rate * (1 - rate) + shrink**2 / 4) / (1 + shrink)
    return centre - half, centre + half


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


def clopper_pearson(hits: float, size: float, level: float) -> tuple[float, float]:
    """Return exact binomial limits (Clopper and Pearson, Biometrika 26:404, 1934).

    Args:
        hits: 0 to `size`, not necessarily whole.
        size: independent records, not necessarily whole.
        level: confidence level, two-sided.

    Returns:
        Lower and upper limit.
    """
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, hits, size - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.isf(tail, hits + 1, size - hits)) if hits < size else 1.0
    return low, high
