"""The difference of two AUCs over the same records."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.statistics.common import (
    Clusters,
    Interval,
    as_values,
    check_level,
    group,
    no_interval,
    t_quantile,
)
from unlearn_eval.statistics.delong import disjoint_pairs, placements, variance

__all__ = ["auc_difference"]

_Sides = tuple[npt.ArrayLike, npt.ArrayLike]


def auc_difference(
    first: _Sides,
    second: _Sides,
    level: float = 0.95,
    member_clusters: Clusters | None = None,
    nonmember_clusters: Clusters | None = None,
) -> Interval:
    """Return AUC(first) − AUC(second) of two states, or two attacks, on the same records.

    The difference is the mean of differences of placements, ΔV_i = V_i − V'_i and ΔW_j = W_j −
    W'_j; `variance` of these is DeLong's Var A + Var A' − 2 Cov(A, A') (Biometrics 44:837, 1988)
    for independent records, and Obuchowski's for clusters. Limits are ± t·√v̂, cut at ±1.

    Where no placement differs, nothing shows how much differences vary. A disjoint pair of records
    is then called alike in both states, so the share of pairs that are not is at most
    1 − (1 − level)^(1/pairs), and so is the difference.

    Args:
        first: (members' scores, non-members' scores) in one state.
        second: the same records, in the same order, in the other.
        level: confidence level, two-sided.
        member_clusters: one label a member, such as its subject.
        nonmember_clusters: one label a non-member; equal labels on both sides are one cluster.

    Returns:
        Method "delong", "cluster" or "conditional"; "none" if a side has one record only.

    Raises:
        DataError: if the states have different numbers of records, a side is empty, a score is NaN,
            or labels do not fit.
        OptionError: if the level is not in (0, 1).
    """
    check_level(level)
    (x, y), (other_x, other_y) = _scores(first, "first"), _scores(second, "second")
    if len(x) != len(other_x) or len(y) != len(other_y):
        raise DataError(
            f"the states must be of the same records: {len(x)} and {len(y)} in the first, "
            f"{len(other_x)} and {len(other_y)} in the second"
        )
    grouping = group((len(x), member_clusters), (len(y), nonmember_clusters))
    method = grouping.method("delong")
    unit = grouping if method == "cluster" else grouping.by_record()
    above = placements(x, y) - placements(other_x, other_y)
    below = placements(other_y, other_x) - placements(y, x)
    gap = float(above.mean())
    notes = [grouping.note] if grouping.note else []
    if not above.any() and not below.any():
        pairs = disjoint_pairs(unit)
        half = 1 - (1 - level) ** (1 / pairs)
        notes.append(f"no record changed its place: exact limits from {pairs} disjoint pairs")
    elif min(len(x), len(y)) < 2:
        notes.append("one record on a side does not show how much records vary")
        return no_interval(gap, len(x), level, grouping.clusters, "; ".join(notes))
    else:
        error = variance(above, below, unit)
        half = t_quantile(level, error.freedom) * float(np.sqrt(error.value))
    low, high = max(-1.0, gap - half), min(1.0, gap + half)
    return Interval(gap, low, high, len(x), level, method, grouping.clusters, "; ".join(notes))


def _scores(sides: _Sides, state: str) -> tuple[FloatArray, FloatArray]:
    """Check both sides of one state."""
    return as_values(sides[0], f"{state} member"), as_values(sides[1], f"{state} nonmember")
