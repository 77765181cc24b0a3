"""Exposure: how far up does a secret rank among all values that it could have had?"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from unlearn.errors import DataError, OptionError

__all__ = ["PAPER", "SUMMARY", "How", "exposure"]

PAPER = "https://arxiv.org/abs/1802.08232"
SUMMARY = "bits by which the model narrows down a secret of known format"

_FEWEST = 100
"""Samples from which a skew-normal distribution is fitted; below, its tail would be invented."""

How = Literal["exact", "sampled", "skew-normal"]


def exposure(
    secret: float, candidates: npt.ArrayLike, how: How = "exact", space: float | None = None
) -> float:
    """Return log2 |R| − log2 rank of a secret among the candidates R of its format.

    The rank is one more than the number of candidates likelier than the secret, plus half of those
    that tie with it (Carlini et al., "The Secret Sharer", arXiv 1802.08232; ties are not defined
    there). log2 |R| if the secret is the likeliest of all, 0 if the least likely; 1.44 bits (1/ln
    2) on average for a secret that the model knows nothing of.

    - "exact": the candidates are all other values of the format, |R| = n + 1.
    - "sampled": they are n random other values. The rank is that among the secret and its sample,
      so exposure ends at log2(n + 1), however large the format. (The paper's estimate by
      sampling is infinite if no sample is likelier.)
    - "skew-normal": a skew-normal distribution F is fitted to the candidates' log-perplexities, and
      exposure is −log2 F of the secret's, at most log2 |R|: the paper's way past the cap. Far
      beyond the sample it is an extrapolation that no sample can check, and where F is below what
      double precision holds it is log2 |R|.

    Args:
        secret: log-probability of the true value, in nats; −∞ allowed.
        candidates: [n], log-probabilities of other values in the same place.
        how: what the candidates are, and what to make of them.
        space: |R|, the number of values of the format; needed for "skew-normal" only.

    Returns:
        Bits ≥ 0.

    Raises:
        DataError: if a value is NaN or +inf, or there are too few candidates or none that differ.
        OptionError: if `how` is unknown, or "skew-normal" has no space larger than the sample.
    """
    others = np.asarray(candidates, dtype=np.float64)
    if others.ndim != 1 or not len(others):
        raise DataError(f"exposure needs candidates in one row, not of shape {others.shape}")
    if not (np.append(others, secret) < np.inf).all():
        raise DataError("exposure: a log-probability is NaN or +inf; score the candidates again")
    if how not in ("exact", "sampled", "skew-normal"):
        raise OptionError(f"exposure {how!r} is not 'exact', 'sampled' or 'skew-normal'")
    if how == "skew-normal":
        if space is None or not space > len(others):
            raise OptionError(
                f"exposure by a skew-normal distribution needs space, how many values the format "
                f"has: more than the {len(others)} candidates, not {space}"
            )
        return min(_by_tail(secret, others), math.log2(space))
    rank = 1 + np.sum(others > secret) + 0.5 * np.sum(others == secret)
    return math.log2(len(others) + 1) - math.log2(float(rank))


def _by_tail(secret: float, others: npt.NDArray[np.float64]) -> float:
    """Return −log2 F(log-perplexity of the secret), F a skew-normal distribution."""
    perplexity = -others[np.isfinite(others)] / math.log(2)
    if len(perplexity) < _FEWEST or perplexity.std() == 0:
        raise DataError(
            f"exposure: a skew-normal distribution needs {_FEWEST} candidates of different finite "
            f"log-probability, not {len(perplexity)}; use 'sampled'"
        )
    if np.isneginf(secret):
        return 0.0
    with warnings.catch_warnings():
        # the search may try shapes whose density underflows
        warnings.simplefilter("ignore", RuntimeWarning)
        shape, centre, scale = stats.skewnorm.fit(perplexity)
        log_f = float(stats.skewnorm.logcdf(-secret / math.log(2), shape, centre, scale))
    # candidates that the model rules out are less likely than any secret
    return max(0.0, -(log_f / math.log(2)) - math.log2(len(perplexity) / len(others)))
