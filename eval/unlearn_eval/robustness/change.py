"""How far two models move under one treatment, with what records, seeds and references add to it.

A change is estimated from records, which both models share; from runs with several seeds, which
they share too; and from several references. Each of the three is a source of error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.statistics.clusters import influence
from unlearn_eval.statistics.delong import placements

__all__ = [
    "Change",
    "ChangeComparison",
    "ChangeCovariance",
    "auc_change",
    "averaged",
    "compared",
    "excess_interval",
    "mean_change",
    "resemblance_interval",
]

_STEPS = 1000  # of R, and of directions in which R is 0: limits are exact to a thousandth


class Change(NamedTuple):
    """By how much a metric of one model changed.

    Attributes:
        value: after less before.
        parts: what each unit (record, or subject) adds to its error; the sum of squares is its
            variance. Of all changes that are compared the same place is the same unit.
    """

    value: float
    parts: FloatArray


class ChangeCovariance(NamedTuple):
    """Variances and covariance of (Δ_u, Δ_r) from one source.

    Attributes:
        uu: variance of Δ_u.
        ur: covariance.
        rr: variance of Δ_r.
        freedom: degrees of freedom.
    """

    uu: float
    ur: float
    rr: float
    freedom: float


class ChangeComparison(NamedTuple):
    """The changes of an unlearned model and of references, with their errors.

    Attributes:
        unlearned: Δ_u.
        reference: Δ_r, the mean over references.
        errors: from each source; they add up. None where a change is infinite.
    """

    unlearned: float
    reference: float
    errors: tuple[ChangeCovariance, ...]


def mean_change(before: FloatArray, after: FloatArray, codes: IntArray) -> Change:
    """Return the change of a mean over records.

    Args:
        before: one value a record.
        after: the same records, in the same order.
        codes: the unit of each record.

    Returns:
        The change; without parts where a value is infinite.
    """
    with np.errstate(invalid="ignore"):
        moved = after - before
        value = float(moved.mean())
    if not math.isfinite(value):
        return Change(value, np.zeros(1))
    return Change(value, influence(moved - value, codes))


def auc_change(
    before: tuple[FloatArray, FloatArray],
    after: tuple[FloatArray, FloatArray],
    codes: tuple[IntArray, IntArray],
) -> Change:
    """Return the change of an AUC, with DeLong's variance of a difference (Biometrics 44:837).

    Args:
        before: scores of members and non-members.
        after: of the same records.
        codes: the unit of each record, numbered alike on both sides.

    Returns:
        The change.
    """
    (x, y), (x_before, y_before) = after, before
    above = placements(x, y) - placements(x_before, y_before)
    below = placements(y_before, x_before) - placements(y, x)
    value = float(above.mean())
    sides = [influence(part - value, c) for part, c in zip((above, below), codes, strict=True)]
    return Change(value, _sum(sides))


def averaged(changes: Sequence[Change]) -> Change:
    """Return the mean of several changes."""
    with np.errstate(invalid="ignore"):  # infinities of both signs
        value = float(np.mean([c.value for c in changes]))
    return Change(value, _sum([c.parts for c in changes]) / len(changes))


def _sum(parts: Sequence[FloatArray]) -> FloatArray:
    size = max(map(len, parts))
    total: FloatArray = np.sum([np.pad(p, (0, size - len(p))) for p in parts], axis=0)
    return total


def compared(
    unlearned: Sequence[Change], references: Sequence[Sequence[Change]], freedom: float
) -> ChangeComparison:
    """Put the changes of an unlearned model beside those of references.

    Errors add up over records (the products of both models' parts), over seeds where there are
    several (covariance of both models' changes, over S), and over references where there are
    several (variance of their changes, over K). What depends on records and seeds, or records and
    references, at once is counted twice: the error is rather too large than too small.

    Args:
        unlearned: a change a seed.
        references: for each reference a change a seed, the same seeds.
        freedom: degrees of freedom of what records add.

    Returns:
        The comparison.
    """
    ours = averaged(unlearned)
    theirs = [averaged(changes) for changes in references]
    mean = averaged(theirs)
    size = max(len(ours.parts), len(mean.parts))
    a, b = (np.pad(c.parts, (0, size - len(c.parts))) for c in (ours, mean))
    if not math.isfinite(ours.value + mean.value):
        return ChangeComparison(ours.value, mean.value, ())
    errors = [ChangeCovariance(float(a @ a), float(a @ b), float(b @ b), freedom)]
    seeds = len(unlearned)
    if seeds > 1:
        runs = np.array(
            [
                [c.value for c in unlearned],
                [float(np.mean([r[s].value for r in references])) for s in range(seeds)],
            ]
        )
        spread = np.cov(runs) / seeds
        errors.append(ChangeCovariance(spread[0, 0], spread[0, 1], spread[1, 1], seeds - 1))
    if len(theirs) > 1:
        several = float(np.var([c.value for c in theirs], ddof=1)) / len(theirs)
        errors.append(ChangeCovariance(0.0, 0.0, several, len(theirs) - 1))
    return ChangeComparison(ours.value, mean.value, tuple(errors))


def _error(
    changes: ChangeComparison, a: npt.ArrayLike, b: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return a Δ_u − b Δ_r, its standard error and degrees of freedom (Satterthwaite)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    total, spread = np.zeros(np.broadcast(a, b).shape), np.zeros(np.broadcast(a, b).shape)
    for error in changes.errors:
        one = np.maximum(a**2 * error.uu - 2 * a * b * error.ur + b**2 * error.rr, 0.0)
        total = total + one
        spread = spread + one**2 / error.freedom
    freedom = np.divide(total**2, spread, out=np.ones_like(total), where=spread > 0)
    return a * changes.unlearned - b * changes.reference, np.sqrt(total), freedom


def excess_interval(changes: ChangeComparison, level: float) -> tuple[float, float, float, float]:
    """Return an interval for Δ_u − Δ_r, ± t · standard error.

    Args:
        changes: the changes.
        level: confidence level, two-sided.

    Returns:
        (low, high, standard error, degrees of freedom).
    """
    value, error, freedom = (float(x) for x in _error(changes, 1.0, 1.0))
    half = float(stats.t.isf((1 - level) / 2, freedom)) * error
    return value - half, value + half, error, freedom


def resemblance_interval(changes: ChangeComparison, level: float) -> tuple[float, float]:
    """Return an interval for R = 1 − |Δ_u − Δ_r| / (|Δ_u| + |Δ_r|).

    R is 2/(1 + ρ) for changes in one direction, one ρ ≥ 1 times the other, and 0 for others. It has
    a kink where both are equal, where a bootstrap never reaches 1. A value r is therefore in the
    interval if some (Δ_u, Δ_r) of that R cannot be rejected, by Fieller's test (J. R. Statist. Soc.
    B 16:175, 1954) of a Δ_u = b Δ_r:

        |a Δ_u − b Δ_r| ≤ t_ν · se(a Δ_u − b Δ_r),   (a, b) ∝ (1, r/(2 − r)) or (r/(2 − r), 1);

    for r = 0, any (a, b) of opposite signs, or with a or b = 0. Each truth is rejected with
    probability 1 − level, whatever R. Where both changes are within their noise everything is
    accepted: [0, 1] says that nothing is known.

    Args:
        changes: the changes.
        level: confidence level.

    Returns:
        (low, high), to a thousandth, R itself within.
    """
    r = np.linspace(0.0, 1.0, _STEPS + 1)
    q = r / (2.0 - r)
    angle = np.linspace(0.0, math.pi / 2, _STEPS + 1)
    accepted = _accepted(changes, np.ones_like(q), q, level) | _accepted(
        changes, q, np.ones_like(q), level
    )
    if _accepted(changes, np.cos(angle), -np.sin(angle), level).any():
        accepted[0] = True
    moved = abs(changes.unlearned) + abs(changes.reference)
    own = 1.0 - abs(changes.unlearned - changes.reference) / moved if moved else 1.0
    inside = np.append(r[accepted], own)
    return float(inside.min()), float(inside.max())


def _accepted(
    changes: ChangeComparison, a: FloatArray, b: FloatArray, level: float
) -> npt.NDArray[np.bool_]:
    value, error, freedom = _error(changes, a, b)
    limit = stats.t.isf((1 - level) / 2, freedom) * error
    accepted: npt.NDArray[np.bool_] = np.abs(value) <= limit
    return accepted
