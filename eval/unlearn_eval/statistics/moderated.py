"""Variances of few values, made steadier by what many others like them vary."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.statistics.common import as_values

__all__ = ["VariancePrior", "moderated", "variance_prior"]


class VariancePrior(NamedTuple):
    """σ² ~ d₀s₀²/χ²_{d₀}: how variances of a kind are spread.

    Attributes:
        freedom: d₀, what the prior is worth in degrees of freedom; 0 for no prior.
        variance: s₀².
    """

    freedom: float
    variance: float


NO_PRIOR = VariancePrior(0.0, 0.0)


def variance_prior(variances: npt.ArrayLike, freedom: float) -> VariancePrior:
    """Fit a scaled inverse χ² distribution to sample variances, by the moments of their logarithm.

    With z = log v and ν degrees of freedom each, e = z − ψ(ν/2) + log(ν/2):
    ψ′(d₀/2) = var(e) − ψ′(ν/2) and log s₀² = mean(e) + ψ(d₀/2) − log(d₀/2). Where the logarithms
    vary no more than chance explains, all variances are one: d₀ is what they hold together, and s₀²
    their mean. d₀ is never more than that, since s₀² is itself an estimate.

    Smyth, "Linear models and empirical Bayes methods" (2004, doi 10.2202/1544-6115.1027), section
    6.2. Variances of 0 tell nothing of the spread and are left out.

    Args:
        variances: [G], sample variances.
        freedom: ν, of each.

    Returns:
        The prior; with d₀ = 0 if fewer than two variances are above 0.

    Raises:
        DataError: if a variance is negative or not finite, or ν is not positive.
    """
    values = as_values(variances, "variances")
    if values.min() < 0 or not np.isfinite(values).all() or freedom <= 0:
        raise DataError("variances must be finite and not negative, with positive freedom")
    positive = values[values > 0]
    if len(positive) < 2:
        return NO_PRIOR
    together = len(positive) * freedom
    e = np.log(positive) - special.digamma(freedom / 2) + math.log(freedom / 2)
    excess = float(np.var(e, ddof=1)) - float(special.polygamma(1, freedom / 2))
    if excess <= 0:
        return VariancePrior(together, float(np.mean(positive)))
    d0 = 2 * _inverse_trigamma(excess)
    log_s2 = float(np.mean(e)) + float(special.digamma(d0 / 2)) - math.log(d0 / 2)
    return VariancePrior(min(d0, together), math.exp(log_s2))


def moderated(variance: npt.ArrayLike, freedom: float, prior: VariancePrior) -> FloatArray:
    """Return (d₀s₀² + νv)/(d₀ + ν), which has d₀ + ν degrees of freedom.

    Args:
        variance: v, one or several.
        freedom: ν of each.
        prior: d₀ and s₀².

    Returns:
        float64, shaped like `variance`.
    """
    own = np.asarray(variance, dtype=np.float64)
    shrunken: FloatArray = (prior.freedom * prior.variance + freedom * own) / (
        prior.freedom + freedom
    )
    return shrunken


def _inverse_trigamma(value: float) -> float:
    """Return x with ψ′(x) = value > 0, by Newton's method on 1/ψ′, which is convex (Smyth 2004)."""
    if value > 1e7:
        return 1 / math.sqrt(value)
    x = 0.5 + 1 / value
    for _ in range(50):
        slope = float(special.polygamma(2, x))
        at = float(special.polygamma(1, x))
        step = at * (1 - at / value) / slope
        x += step
        if -step / x < 1e-10:
            break
    return x
