"""How many records would do: for a rate, for a low false-positive rate, for equivalence."""

from __future__ import annotations

import math

from scipy import stats

from unlearn.errors import OptionError

__all__ = ["nonmembers_needed", "records_for_equivalence", "records_needed"]


def records_needed(rate: float, hits: int = 0, level: float = 0.95) -> int:
    """Return the smallest n at which `hits` hits show that the true rate is `rate` or less.

    The smallest n with P(Binomial(n, rate) ≤ hits) ≤ 1 − level: for no hits ⌈log(1 − level)/log(1 −
    rate)⌉, about 3/rate ("rule of three"; Hanley and Lippman-Hand, JAMA 249:1743, 1983). 59
    independent records without a hit bound a rate at 5 %, 299 at 1 %.

    Args:
        rate: to be shown as an upper bound, in (0, 1).
        hits: seen among the records.
        level: confidence level, one-sided.

    Returns:
        A number of independent records (or subjects).

    Raises:
        OptionError: if rate or level is not in (0, 1), or hits is negative.
    """
    for name, value in (("rate", rate), ("confidence level", level)):
        if not 0 < value < 1:
            raise OptionError(f"{name} {value} is not between 0 and 1")
    if hits < 0:
        raise OptionError(f"{hits} hits: 0 or more are possible")
    if hits == 0:
        return math.ceil(math.log1p(-level) / math.log1p(-rate) * (1 - 1e-12))
    low, high = hits, hits + 1
    while stats.binom.cdf(hits, high, rate) > 1 - level:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = stats.binom.cdf(hits, middle, rate) <= 1 - level
        low, high = (low, middle) if enough else (middle, high)
    return high


def nonmembers_needed(fpr: float) -> int:
    """Return the smallest n with 1 − (1 − fpr)^n ≥ 0.95.

    With that many non-members and none above the threshold, the 95 % upper bound of the
    false-positive rate reaches down to `fpr`: 299 for 1 %, 2,995 for 0.1 %. How many members show
    that the true-positive rate there is at most some other rate is `records_needed` of that rate.

    Raises OptionError if `fpr` is not in (0, 1).
    """
    if not 0 < fpr < 1:
        raise OptionError(f"false-positive rate {fpr} is not between 0 and 1; 0.01 is usual")
    return records_needed(fpr)


def records_for_equivalence(
    margin: float, twins: int = 1, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Return how many records show that an AUC lies within ½ ± margin, if it truly is ½.

    n = ⌈(z_{1−α} + z_{(1+power)/2})² · (1 + 1/twins)/12 / margin²⌉: two one-sided tests by the
    normal approximation, with variance 1/12 a placement on either side, `twins` unseen records for
    each forgotten one, and all compared with all.

    Args:
        margin: largest distance from ½ that does not matter, in (0, ½).
        twins: unseen records for each forgotten one, at least 1.
        alpha: error of the tests, in (0, ½).
        power: wanted probability of showing equivalence, in (0, 1).

    Returns:
        A number of independent forgotten records.

    Raises:
        OptionError: if an argument is out of range.
    """
    if not (0 < margin < 0.5 and twins >= 1 and 0 < alpha < 0.5 and 0 < power < 1):
        raise OptionError(
            f"margin {margin}, twins {twins}, alpha {alpha}, power {power}: a margin in (0, 0.5), "
            "at least one twin, alpha in (0, 0.5) and a power in (0, 1) are needed"
        )
    z = stats.norm.isf(alpha) + stats.norm.isf((1 - power) / 2)
    return math.ceil(float(z**2) * (1 + 1 / twins) / 12 / margin**2)
