"""The variance of a mean of clustered values, and how well it is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.statistics.common import Grouping

__all__ = ["Variance", "influence", "mean_variance", "side_freedom", "welch"]


class Variance(NamedTuple):
    """The variance of a mean, and how well it is known.

    Attributes:
        value: the variance; 0 where all values, or all sums of clusters, are alike.
        freedom: degrees of freedom, fewer where a few units carry the variance.
        plain: degrees of freedom from the numbers of units alone.
    """

    value: float
    freedom: float
    plain: float


def influence(residuals: FloatArray, codes: IntArray) -> FloatArray:
    """Return what each cluster adds to the error of the mean, Σ_{i∈g} r_i/(n √c_g).

    c_g = 1 − 2 p_g + Σ_h p_h², with p_g the share of the records in cluster g, is by how much a
    cluster's residual about the common mean shrinks if the means of all clusters vary alike: 1 −
    1/G for G equal clusters, 1 − 1/n for independent records. (Bell and McCaffrey's 1 − p_g takes
    records to be independent, and large clusters to vary less.)

    Args:
        residuals: float64[n], values less their mean.
        codes: int64[n], the cluster of each; numbers that do not occur get 0.

    Returns:
        float64[max(codes) + 1]; the sum of squares is the variance of the mean. Of one cluster
        alone nothing is known: its is NaN.
    """
    shares = np.bincount(codes) / len(codes)
    sums = np.bincount(codes, residuals) / len(codes)
    shrinkage = 1 - 2 * shares + np.sum(shares**2)
    parts: FloatArray = np.full(len(sums), np.nan)
    np.divide(sums, np.sqrt(shrinkage), out=parts, where=shrinkage > 0)
    return parts


def mean_variance(values: FloatArray, unit: Grouping) -> Variance:
    """Return the variance of a mean of values on one side.

    Degrees of freedom are 1/Σ p_g² − 1, the number of records or equal clusters less one; `freedom`
    has fewer where a few of them carry the variance, as yes/no values do if one answer is rare.

    Args:
        values: float64[n], at least two different units.
        unit: which of them belong together.

    Returns:
        The variance.
    """
    (codes,), (effective,) = unit.codes, unit.effective
    parts = influence(values - values.mean(), codes)
    freedom = side_freedom(parts, codes, effective - 1)
    return Variance(float(np.sum(parts**2)), freedom, effective - 1)


def side_freedom(contributions: FloatArray, codes: IntArray, plain: float) -> float:
    """Return the degrees of freedom of one side's variance.

    The variance of G values of kurtosis κ, itself estimated, varies like a χ² with
    2G/(κ − 1 + 2/(G − 1)) degrees of freedom: G − 1 if κ = 3, as for normal values.

    Args:
        contributions: as from `influence`.
        codes: which of them are of this side.
        plain: degrees of freedom that are never exceeded.

    Returns:
        Degrees of freedom.
    """
    squares = contributions**2
    if not squares.any():
        return plain
    units = len(np.unique(codes))
    kurtosis = units * float(np.sum(squares**2)) / float(np.sum(squares)) ** 2
    return min(plain, 2 * units / (kurtosis - 1 + 2 / (units - 1)))


def welch(variances: list[float], freedoms: list[float]) -> float:
    """Return (Σ v)²/Σ (v²/ν): the degrees of freedom of a sum of independent variances."""
    spread = sum(v**2 / nu for v, nu in zip(variances, freedoms, strict=True))
    return sum(variances) ** 2 / spread if spread > 0 else min(freedoms)
