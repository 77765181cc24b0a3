"""What the statistics of an AUC are made of: placements, their variance, degrees of freedom."""

from __future__ import annotations

import numpy as np

from unlearn_eval.arrays import FloatArray
from unlearn_eval.statistics.clusters import Variance, influence, side_freedom, welch
from unlearn_eval.statistics.common import Grouping

__all__ = ["disjoint_pairs", "interaction", "placements", "variance"]


def placements(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return for each x the fraction of y below it, ties counting ½."""
    ordered = np.sort(y)
    ranks = np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")
    fractions: FloatArray = ranks / (2 * len(y))
    return fractions


def variance(above: FloatArray, below: FloatArray, unit: Grouping) -> Variance:
    """Return the variance of the common mean of members' and non-members' placements.

    With V_i of member i, W_j of non-member j, their mean A, and shares p_g, q_g of members and
    non-members that belong to cluster g,

        Σ_g [ Σ_{i∈g} (V_i − A)/(m √c(p_g)) + Σ_{j∈g} (W_j − A)/(n √c(q_g)) ]²

    with c as in `influence`. That is DeLong's variance (Biometrics 44:837, 1988) if every record is
    its own cluster, and Obuchowski's (Biometrics 53:567, 1997; with the covariance of a subject's
    members and non-members) for clusters of equal size.

    Each side has the degrees of freedom of `mean_variance`. Sides combine by Welch–Satterthwaite,
    or by the smaller number where a cluster has records on both.

    Args:
        above: float64[m], V of the members; of a difference, V of one state less V of the other.
        below: float64[n], W of the non-members, with the same mean.
        unit: which of them belong together.

    Returns:
        The variance of the mean.
    """
    mean = float(above.mean())
    sides = (influence(above - mean, unit.codes[0]), influence(below - mean, unit.codes[1]))
    plain = [effective - 1 for effective in unit.effective]
    careful = [
        side_freedom(side, codes, few)
        for side, codes, few in zip(sides, unit.codes, plain, strict=True)
    ]
    if unit.shared:
        total = max(len(side) for side in sides)
        joint = sum(np.pad(side, (0, total - len(side))) for side in sides)
        return Variance(float(np.sum(np.square(joint))), min(careful), min(plain))
    parts = [float(np.sum(side**2)) for side in sides]
    return Variance(sum(parts), welch(parts, careful), welch(parts, plain))


def interaction(x: FloatArray, y: FloatArray, above: FloatArray, below: FloatArray) -> float:
    """Return by how much DeLong's variance of independent records is too large on average.

    That is S²/(mn), with S² the residual mean square of the wins w_ij after the effects of member
    and of non-member, Σ (w_ij − V_i − W_j + A)²/((m − 1)(n − 1)): each placement is itself a mean
    over the other side's sample, and its noise is counted twice.

    Args:
        x: float64[m], scores of the members.
        y: float64[n], scores of the non-members.
        above: float64[m], V_i.
        below: float64[n], W_j.

    Returns:
        The excess, ≥ 0.
    """
    m, n, area = len(x), len(y), float(above.mean())
    ordered = np.sort(y)
    ties = np.searchsorted(ordered, x, "right") - np.searchsorted(ordered, x, "left")
    squares = m * n * area - 0.25 * float(ties.sum())  # Σ w²: w is 1, or ½ at a tie
    residual = squares - n * float(above @ above) - m * float(below @ below) + m * n * area**2
    return max(residual, 0.0) / ((m - 1) * (n - 1) * m * n)


def disjoint_pairs(unit: Grouping) -> int:
    """Return how many pairs of a member and a non-member can be formed, each cluster used once."""
    members, nonmembers = (np.unique(codes) for codes in unit.codes)
    total = len(np.union1d(members, nonmembers))
    return max(1, min(len(members), len(nonmembers), total // 2))
