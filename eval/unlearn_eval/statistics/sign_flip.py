"""Exact sign-flip test for pairs whose order a coin decided."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.statistics.common import as_values

__all__ = ["MAX_PAIRS", "SignFlip", "sign_flip_test"]

MAX_PAIRS = 40
"""Most pairs counted exactly; beyond, 2^n is sampled. Half the pairs have 2^20 sums each."""
_SAMPLES = 99_999


class SignFlip(NamedTuple):
    """Outcome of a sign-flip test.

    Attributes:
        mean: mean difference of the pairs.
        p_value: share of the coin flips that give as much.
        pairs: how many pairs there are.
        exact: whether all 2^n flips were counted, not a sample of them.
    """

    mean: float
    p_value: float
    pairs: int
    exact: bool


def sign_flip_test(
    differences: npt.ArrayLike,
    alternative: Literal["two-sided", "greater", "less"] = "greater",
    seed: int = 0,
) -> SignFlip:
    """Test whether what a coin chose to include scores higher than what it left out.

    Of each pair of exchangeable canaries a fair coin included one. If inclusion left no trace, each
    difference (included − left out) is as likely to have the other sign, whatever the model does:
    p = #{s ∈ {−1, 1}^n: Σ s_i d_i ≥ Σ d_i}/2^n (Fisher, The Design of Experiments, 1935, section
    21). Up to `MAX_PAIRS` pairs all flips are counted, by sorting the sums of either half; beyond,
    p = (1 + hits)/(1 + samples) over random flips, which is valid too (Phipson and Smyth, Stat.
    Appl. Genet. Mol. Biol. 9:39, 2010). The smallest p of n pairs is 2^−n: 5 are needed for 5 %.

    Args:
        differences: [n], score of the included minus score of the other canary of each pair.
        alternative: "greater" if traces raise the score; "two-sided" counts |Σ s_i d_i| ≥ |Σ d_i|.
        seed: of the sample, beyond `MAX_PAIRS`.

    Returns:
        The outcome.

    Raises:
        DataError: if there are no pairs, or a difference is NaN or infinite.
        OptionError: if the alternative is unknown.
    """
    d = as_values(differences, "differences")
    if not np.isfinite(d).all():
        raise DataError(f"pair {int(np.argmax(~np.isfinite(d)))} has an infinite difference")
    if alternative not in ("two-sided", "greater", "less"):
        raise OptionError(f"alternative {alternative!r} is not 'two-sided', 'greater' or 'less'")
    total = float(d.sum())
    bound = {"greater": total, "less": -total, "two-sided": abs(total)}[alternative]
    # sums of the same numbers in another order are equal but for rounding
    bound -= 1e-12 * float(np.abs(d).sum())
    both, exact = alternative == "two-sided", len(d) <= MAX_PAIRS
    sizes = np.abs(d)
    p = _count(sizes, bound, both) if exact else _sample(sizes, bound, both, seed)
    return SignFlip(float(d.mean()), p, len(d), exact)


def _count(sizes: FloatArray, bound: float, both: bool) -> float:
    """Return the share of all 2^n signed sums that reach the bound, in either direction if both."""
    if both and bound <= 0:
        return 1.0
    half = len(sizes) // 2
    first, second = _sums(sizes[:half]), np.sort(_sums(sizes[half:]))
    reach = len(second) - np.searchsorted(second, bound - first, side="left")
    # the sums are symmetric about 0
    return (1 + both) * float(reach.sum()) / (len(first) * len(second))


def _sums(sizes: FloatArray) -> FloatArray:
    """Return all 2^n sums of ± the sizes."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate((sums - size, sums + size))
    return sums


def _sample(sizes: FloatArray, bound: float, both: bool, seed: int) -> float:
    """Return (1 + hits)/(1 + samples) over random signs."""
    rng = np.random.default_rng(seed)
    hits = 0
    for start in range(0, _SAMPLES, 10_000):
        rows = min(10_000, _SAMPLES - start)
        sums = (2 * rng.integers(0, 2, (rows, len(sizes))) - 1) @ sizes
        hits += int(np.sum((np.abs(sums) if both else sums) >= bound))
    return (1 + hits) / (1 + _SAMPLES)
