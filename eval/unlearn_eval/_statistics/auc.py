"""Area under the ROC curve, with DeLong's interval for independent and for clustered records."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from unlearn_eval._arrays import FloatArray, IntArray
from unlearn_eval._statistics.common import (
    Clusters,
    Grouping,
    Interval,
    as_values,
    check_level,
    group,
    no_interval,
    t_quantile,
)

__all__ = ["auc", "auc_interval"]


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
    return float(_placements(as_values(member, "member"), as_values(nonmember, "nonmember")).mean())


def auc_interval(
    member: npt.ArrayLike,
    nonmember: npt.ArrayLike,
    level: float = 0.95,
    member_clusters: Clusters | None = None,
    nonmember_clusters: Clusters | None = None,
) -> Interval:
    """Return the AUC with a confidence interval.

    With placements V_i = P(nonmember < member i) (ties ½), W_j = P(member > nonmember j) and
    shares p_g, q_g of members and non-members that belong to cluster g, the variance is

        Σ_g [ Σ_{i∈g} (V_i − A)/(m √(1 − p_g)) + Σ_{j∈g} (W_j − A)/(n √(1 − q_g)) ]²

    which is DeLong's (Biometrics 44:837, 1988) if every record is its own cluster, and Obuchowski's
    (Biometrics 53:567, 1997; with the covariance of a subject's members and non-members) if
    clusters are of equal size. The roots undo the shrinkage of residuals about their own mean.

    Limits are set on the logit scale with a t quantile. Each side's degrees of freedom are
    1/Σ p_g² − 1 (its records or equal clusters, less one), or fewer where a few placements carry
    the variance; sides combine by Welch–Satterthwaite, or by the smaller number where a cluster has
    records on both. Simulated coverage of nominal 95 % at AUC .5 to .95: 94 to 95 % with 40 members
    and 400 others; 93 to 96 % with 10 clusters a side, equal or geometric in size, of intra-class
    correlation .3. It is up to 98 % with 20 or fewer records a side, and down to 92 % where a few
    of 10 clusters hold most of the records.

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
    x, y = as_values(member, "member"), as_values(nonmember, "nonmember")
    grouping = group((len(x), member_clusters), (len(y), nonmember_clusters))
    method = grouping.method("delong")
    unit = grouping if method == "cluster" else grouping.by_record()
    above, below = _placements(x, y), 1 - _placements(y, x)
    area = float(above.mean())
    notes = [grouping.note] if grouping.note else []

    if area in (0.0, 1.0) or min(x.min(), y.min()) == max(x.max(), y.max()):
        pairs = _disjoint_pairs(unit)
        low, high = _boundary(area, pairs, level)
        notes.append(f"no variance to estimate: exact limits from {pairs} disjoint pairs")
    elif min(len(x), len(y)) < 2:
        note = "one record on a side does not show how much records vary"
        return no_interval(area, len(x), level, grouping.clusters, "; ".join([*notes, note]))
    else:
        sides = (_influence(above - area, unit.codes[0]), _influence(below - area, unit.codes[1]))
        total = max(len(side) for side in sides)
        joint = sum(np.pad(side, (0, total - len(side))) for side in sides)
        width = np.sqrt(np.sum(np.square(joint))) / (area * (1 - area))
        width *= t_quantile(level, _freedom(sides, unit))
        low, high = (float(expit(logit(area) + side * width)) for side in (-1, 1))
    return Interval(area, low, high, len(x), level, method, grouping.clusters, "; ".join(notes))


def _placements(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return for each x the fraction of y below it, ties counting ½."""
    ordered = np.sort(y)
    ranks = np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")
    fractions: FloatArray = ranks / (2 * len(y))
    return fractions


def _influence(residuals: FloatArray, codes: IntArray) -> FloatArray:
    """Return what each cluster adds to the estimate's error, 0 where it has no records here."""
    shares = np.bincount(codes) / len(codes)
    sums = np.bincount(codes, residuals) / len(codes)
    influence: FloatArray = sums / np.sqrt(1 - shares)
    return influence


def _freedom(sides: tuple[FloatArray, FloatArray], unit: Grouping) -> float:
    """Return the degrees of freedom of the variance, from those of its two parts."""
    each = [
        _side_freedom(side, len(np.unique(codes)), effective)
        for side, codes, effective in zip(sides, unit.codes, unit.effective, strict=True)
    ]
    if unit.shared:
        return min(each)
    variances = [float(np.sum(side**2)) for side in sides]
    spread = sum(v**2 / df for v, df in zip(variances, each, strict=True))
    return sum(variances) ** 2 / spread


def _side_freedom(influence: FloatArray, units: int, effective: float) -> float:
    """Return the degrees of freedom of one part: fewer where a few units carry the variance.

    The variance of G values of kurtosis κ, itself estimated, varies like a χ² with
    2G/(κ − 1 + 2/(G − 1)) degrees of freedom: G − 1 if κ = 3, as for normal values.
    """
    squares = influence**2
    if not squares.any():
        return effective - 1
    kurtosis = units * float(np.sum(squares**2)) / float(np.sum(squares)) ** 2
    return min(effective - 1, 2 * units / (kurtosis - 1 + 2 / (units - 1)))


def _disjoint_pairs(unit: Grouping) -> int:
    """Return how many pairs of a member and a non-member can be formed, each cluster used once."""
    members, nonmembers = (np.unique(codes) for codes in unit.codes)
    total = len(np.union1d(members, nonmembers))
    return max(1, min(len(members), len(nonmembers), total // 2))


def _boundary(area: float, pairs: int, level: float) -> tuple[float, float]:
    """Return exact limits when all disjoint pairs came out alike: won, lost, or tied."""
    if area in (0.0, 1.0):
        limit = ((1 - level) / 2) ** (1 / pairs)
        return (limit, 1.0) if area == 1.0 else (0.0, 1 - limit)
    # Ties have probability t ≥ (1 − level)^(1/pairs); the rest could all go either way.
    tied = (1 - level) ** (1 / pairs)
    return tied / 2, 1 - tied / 2
