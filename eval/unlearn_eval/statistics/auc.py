"""Area under the ROC curve, its interval and equivalence, by record or by cluster."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq

from unlearn.errors import OptionError
from unlearn_eval.statistics.common import (
    Clusters,
    Grouping,
    Interval,
    as_values,
    check_level,
    group,
    no_interval,
    t_quantile,
)
from unlearn_eval.statistics.delong import disjoint_pairs, interaction, placements, variance
from unlearn_eval.statistics.means import Equivalence, check_equivalence

__all__ = ["auc", "auc_interval", "auc_tost"]

_PRIOR = 4
"""Degrees of freedom that the variance of equal-shaped samples counts for, beside the estimate."""


def auc(member: npt.ArrayLike, nonmember: npt.ArrayLike) -> float:
    """Return P(member > nonmember) + ½ P(member = nonmember) over all pairs.

    Args:
        member: scores, larger = more likely a member; ±inf is allowed.
        nonmember: scores on the same scale.

    Returns:
        The area, in [0, 1]; ½ if the score tells nothing.

    Raises:
        DataError: if a side is empty or a score is NaN.
    """
    return float(placements(as_values(member, "member"), as_values(nonmember, "nonmember")).mean())


def auc_interval(
    member: npt.ArrayLike,
    nonmember: npt.ArrayLike,
    level: float = 0.95,
    member_clusters: Clusters | None = None,
    nonmember_clusters: Clusters | None = None,
) -> Interval:
    """Return the AUC with a confidence interval.

    The limits are all θ with (A − θ)² ≤ t²·r·V(θ), where

        V(θ) = θ(1 − θ) [1 + (½(m + n) − 1) ((1 − θ)/(2 − θ) + θ/(1 + θ))] / (mn)

    is the variance that samples of equal shape have (Hanley and McNeil; Newcombe, Stat. Med.
    25:559, 2006, method 5), and r says how far these samples depart from that: r = (ν v̂/V(A) +
    4)/(ν + 4), with v̂ and its degrees of freedom ν as in `variance`. The estimate alone is too
    noisy near 0 and 1, and V(θ) alone is wrong for unequal shapes. t has ν + 4 degrees of freedom.

    Of independent records v̂ is DeLong's variance less its bias (`interaction`). Of clusters m and n
    in V are harmonic means of the numbers of records and of effective clusters, 1/Σ w_g² for shares
    w_g: the sample sizes of records with intra-class correlation ½ (Kish's design effect). Where a
    cluster is on both sides its effect cancels, and they are the numbers of records.

    Simulated coverage of nominal 95 %, normal and t₃ scores, AUC .5 to .99, 10 to 100 records or 10
    to 40 clusters a side: records 93 to 98 %; clusters of intra-class correlation .3, equal or very
    unequal, 94 to 99 %. It is 92 to 98 % with correlation .6, and 90 to 98 % with .9. It falls to
    91 % (AUC .8) and 87 % (AUC .95) for 10 or 20 members whose scores vary twice as much as those
    of many non-members.

    At A = 0 or 1 the variance is 0 and says nothing. The limit is then the exact binomial one from
    disjoint pairs of independent records (or clusters), all concordant; all scores being equal is
    treated alike.

    Args:
        member: scores, larger = more likely a member; ±inf is allowed.
        nonmember: scores on the same scale.
        level: confidence level, two-sided.
        member_clusters: one label a member, such as its subject.
        nonmember_clusters: one label a non-member; equal labels on both sides are one cluster.

    Returns:
        Method "delong", "cluster" or "conditional"; "none" if a side has one record only. `n`
        counts members.

    Raises:
        DataError: if a side is empty, a score is NaN, or labels do not fit the scores.
        OptionError: if the level is not in (0, 1).
    """
    check_level(level)
    inference = _inference(member, nonmember, member_clusters, nonmember_clusters)
    if inference.limits is None:
        return no_interval(inference.area, inference.n, level, inference.clusters, inference.note)
    low, high = inference.limits(level)
    return Interval(
        inference.area,
        low,
        high,
        inference.n,
        level,
        inference.method,
        inference.clusters,
        inference.note,
    )


def auc_tost(
    member: npt.ArrayLike,
    nonmember: npt.ArrayLike,
    margin: float,
    alpha: float = 0.05,
    member_clusters: Clusters | None = None,
    nonmember_clusters: Clusters | None = None,
) -> Equivalence:
    """Test that the AUC lies within ½ ± margin, by two one-sided tests at α.

    Each is the inversion of `auc_interval`: equivalent if its interval at level 1 − 2α lies within
    ½ ± margin (Schuirmann, J. Pharmacokinet. Biopharm. 15:657, 1987, on the scale of the AUC).

    Args:
        member: scores, larger = more likely a member.
        nonmember: scores on the same scale.
        margin: largest distance from ½ that does not matter, in (0, ½).
        alpha: how often an AUC at the margin may be called equivalent, in (0, ½).
        member_clusters: one label a member.
        nonmember_clusters: one label a non-member.

    Returns:
        The outcome, with value and limits on the scale of the AUC.

    Raises:
        DataError: if a side is empty, a score is NaN, or labels do not fit the scores.
        OptionError: if margin or α is out of range.
    """
    check_equivalence(margin, alpha)
    if margin >= 0.5:
        raise OptionError(f"equivalence margin {margin} covers every AUC; 0.1 is usual")
    inference = _inference(member, nonmember, member_clusters, nonmember_clusters)
    low, high, p_value = math.nan, math.nan, math.nan
    if inference.limits is not None:
        low, high = inference.limits(1 - 2 * alpha)
        p_value = max(inference.beyond(0.5 - margin), inference.beyond(0.5 + margin))
    return Equivalence(
        value=inference.area,
        low=low,
        high=high,
        margin=margin,
        p_value=p_value,
        equivalent=abs(inference.area - 0.5) < margin and p_value < alpha,
        n=inference.n,
        method=inference.method,
        clusters=inference.clusters,
        note=inference.note,
    )


class _Inference(NamedTuple):
    """An AUC and its sampling error.

    `limits` gives the interval at a level, or is None where there is none; `beyond` gives the
    one-sided p-value of the hypothesis that the AUC is θ or lies on its far side.
    """

    area: float
    n: int
    method: str
    clusters: int | None
    note: str
    limits: Callable[[float], tuple[float, float]] | None
    beyond: Callable[[float], float]


def _inference(
    member: npt.ArrayLike,
    nonmember: npt.ArrayLike,
    member_clusters: Clusters | None,
    nonmember_clusters: Clusters | None,
) -> _Inference:
    """Choose between exact, cluster and record-level inference."""
    x, y = as_values(member, "member"), as_values(nonmember, "nonmember")
    grouping = group((len(x), member_clusters), (len(y), nonmember_clusters))
    method = grouping.method("delong")
    unit = grouping if method == "cluster" else grouping.by_record()
    above, below = placements(x, y), 1 - placements(y, x)
    area = float(above.mean())
    notes = [grouping.note] if grouping.note else []

    if area in (0.0, 1.0) or min(x.min(), y.min()) == max(x.max(), y.max()):
        pairs = disjoint_pairs(unit)
        notes.append(f"no variance to estimate: exact limits from {pairs} disjoint pairs")
        limits, beyond = _exact(area, pairs)
    elif min(len(x), len(y)) < 2:
        notes.append("one record on a side does not show how much records vary")
        note = "; ".join(notes)
        return _Inference(area, len(x), "none", grouping.clusters, note, None, lambda _: math.nan)
    else:
        error = variance(above, below, unit)
        excess = 0.0 if method == "cluster" else interaction(x, y, above, below)
        sizes = _working_sizes(unit)
        ratio = max(error.value - excess, 0.0) / _equal_shape_variance(area, *sizes)
        ratio = (error.freedom * ratio + _PRIOR) / (error.freedom + _PRIOR)
        limits, beyond = _by_score(area, *sizes, ratio, error.freedom + _PRIOR)
    return _Inference(area, len(x), method, grouping.clusters, "; ".join(notes), limits, beyond)


_Pair = tuple[Callable[[float], tuple[float, float]], Callable[[float], float]]


def _working_sizes(unit: Grouping) -> tuple[float, float]:
    """Return m and n of V(θ), see `auc_interval`: records, or fewer where they come in clusters."""
    records = tuple(map(float, map(len, unit.codes)))
    if unit.shared:
        return records[0], records[1]
    m, n = (2 / (1 / n + 1 / few) for n, few in zip(records, unit.effective, strict=True))
    return m, n


def _equal_shape_variance(theta: float, m: float, n: float) -> float:
    """Return V(θ), see `auc_interval`; it is 0 at θ = 0 and 1, and symmetric about ½."""
    bracket = (1 - theta) / (2 - theta) + theta / (1 + theta)
    return theta * (1 - theta) * (1 + ((m + n) / 2 - 1) * bracket) / (m * n)


def _by_score(area: float, m: float, n: float, ratio: float, freedom: float) -> _Pair:
    """Invert |A − θ| ≤ t √(r V(θ))."""

    def distance(theta: float) -> float:
        return (area - theta) / math.sqrt(ratio * _equal_shape_variance(theta, m, n))

    def limits(level: float) -> tuple[float, float]:
        t = t_quantile(level, freedom)

        def excess(theta: float) -> float:
            return (area - theta) ** 2 - t * t * ratio * _equal_shape_variance(theta, m, n)

        return float(brentq(excess, 0.0, area)), float(brentq(excess, area, 1.0))

    return limits, lambda theta: _one_sided(distance(theta), theta, freedom)


def _exact(area: float, pairs: int) -> _Pair:
    """Return exact limits when all disjoint pairs came out alike: won, lost, or tied."""

    def limits(level: float) -> tuple[float, float]:
        if area in (0.0, 1.0):
            limit = ((1 - level) / 2) ** (1 / pairs)
            return (limit, 1.0) if area == 1.0 else (0.0, 1 - limit)
        # Ties have probability t ≥ (1 − level)^(1/pairs); the rest could all go either way.
        tied = (1 - level) ** (1 / pairs)
        return tied / 2, 1 - tied / 2

    def beyond(theta: float) -> float:
        if area in (0.0, 1.0):
            return 1.0  # the larger of both p-values, and that of the end where the area lies
        return 0.5 * (1 - 2 * abs(theta - 0.5)) ** pairs

    return limits, beyond


def _one_sided(distance: float, theta: float, freedom: float) -> float:
    """Return the p-value of "θ or further from ½", the estimate lying `distance` errors above θ."""
    return float(stats.t.sf(-distance if theta > 0.5 else distance, freedom))
