"""Where a model lies among references: a distance with its limits."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from unlearn_eval.arrays import FloatArray
from unlearn_eval.statistics import (
    VariancePrior,
    moderated,
    prediction_limits,
)

__all__ = ["Limits", "ReferencePosition", "limits_of", "position_among"]

_TIED = 1e-12
"""Values that differ by less than this part of their size differ by rounding only."""


class ReferencePosition(NamedTuple):
    """Where the judged model lies among k references.

    Attributes:
        value: its statistic, T.
        mean: of the references.
        sd: their standard deviation, with what unseen people say of it where there are such.
        k: how many they are.
        distance: |T − mean|/sd; NaN if it is not defined.
        p_value: of T as a further reference, two-sided.
        freedom: degrees of freedom of `sd`.
        floor: least distance that matters, in the statistic's units.
    """

    value: float
    mean: float
    sd: float
    k: int
    distance: float
    p_value: float
    freedom: float
    floor: float = 0.0


class Limits(NamedTuple):
    """How far from the references' mean a model passes and fails, in the statistic's units.

    Attributes:
        equivalent: it passes within this.
        different: it fails beyond this.
    """

    equivalent: float
    different: float


def position_among(
    value: float,
    references: FloatArray,
    prior: VariancePrior | None = None,
    floor: float = 0.0,
) -> ReferencePosition:
    """Compare a statistic with that of k references.

    p = 2 P(t_ν ≥ |T − mean|/(s √(1 + 1/k))), ν = d₀ + k − 1 and s² = (d₀s₀² + (k−1)s²)/ν with the
    prior (d₀, s₀²) that unseen people give (Smyth 2004), else d₀ = 0. Limits: an infinite T among
    finite references has distance ∞ and p = 0. Where all references agree and nothing else tells
    how much they vary, T has distance 0 if it agrees with them, else none (NaN), and p = 1 either
    way, so that it can be shown equal but never shown different. (Calling any difference a FAIL
    would be wrong with probability k^k/(k + 1)^{k+1}, 6.7 % at k = 5, for a statistic that takes
    another value once in k + 1 times.)

    Args:
        value: T.
        references: [k], k ≥ 2.
        prior: of their variance.
        floor: least distance that matters, in the statistic's units.

    Returns:
        Its place; NaN throughout where a reference's statistic is infinite or NaN, or T is NaN.
    """
    k = len(references)
    own, known = k - 1, prior if prior is not None else VariancePrior(0.0, 0.0)
    nan = math.nan
    if math.isnan(value) or not np.isfinite(references).all():
        return ReferencePosition(value, nan, nan, k, nan, nan, own, floor)
    mean = float(np.mean(references))
    size = float(np.abs(references).max())
    tied = float(np.ptp(references)) <= _TIED * size
    if tied and not known.freedom * known.variance:
        equal = abs(value - mean) <= _TIED * size
        return ReferencePosition(value, mean, 0.0, k, 0.0 if equal else nan, 1.0, own, floor)
    sd = math.sqrt(float(moderated(np.var(references, ddof=1), own, known)))
    freedom = own + known.freedom
    distance = abs(value - mean) / sd
    p = 2 * float(stats.t.sf(distance / math.sqrt(1 + 1 / k), freedom))
    return ReferencePosition(value, mean, sd, k, distance, p, freedom, floor)


def limits_of(position: ReferencePosition, margin: float, alpha: float, t: float) -> Limits:
    """Return the limits for |T − mean|, with M = max(margin · SD, floor) the least that matters.

    equivalent = max(c·s, floor − t_{1−α, ν}·s·√(1 + 1/k)) with c = `prediction_limits`: the first
    rejects "a margin of SDs away" with probability α there, the second "the floor away"; the truth
    is at the larger of both. different = max(c·s, floor, t·s·√(1 + 1/k)).

    Args:
        position: s, k, ν and the floor.
        margin: largest distance that does not matter, in SDs.
        alpha: error of PASS.
        t: what a t value of a further reference exceeds with the error of FAIL.

    Returns:
        The limits.
    """
    scale = math.sqrt(1 + 1 / position.k)
    ratio = prediction_limits(position.k, margin, alpha, position.freedom).equivalent
    inside = position.floor - float(stats.t.isf(alpha, position.freedom)) * scale * position.sd
    equivalent = max(ratio * position.sd, inside)
    different = max(ratio * position.sd, position.floor, t * scale * position.sd)
    return Limits(equivalent, different if position.sd else math.inf)
