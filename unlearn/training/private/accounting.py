"""From ε to noise and back: Opacus' PRV accountant of the Poisson-subsampled Gaussian mechanism.

It composes privacy loss random variables numerically (Gopi, Lee and Wutschitz, arXiv 2106.02848)
and gives an upper bound of ε, of adding or removing one unit.
"""

from __future__ import annotations

import math
import warnings

from unlearn.errors import OptionError

__all__ = ["ACCOUNTANT", "check_opacus", "noise_multiplier", "spent"]

ACCOUNTANT = "PRV (Opacus)"

_LEAST, _PRECISION = 0.05, 1.0005
"""The smallest ε that is promised, and how near σ comes to the least that is enough."""


def check_opacus() -> None:
    """Refuse to go on without Opacus, which an extra of its own brings.

    Raises OptionError if it is not installed.
    """
    try:
        import opacus.accountants  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "--dp needs Opacus, which is not installed: in a clone of unlearn, pip install '.[dp]'"
        ) from error


def spent(noise: float, rate: float, steps: int, delta: float) -> float:
    """Return an upper bound of the ε that some steps spend.

    Args:
        noise: σ, the standard deviation of the noise over the clipping norm.
        rate: q, with which each unit takes part in a step.
        steps: how many.
        delta: δ.

    Returns:
        ε.
    """
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings(action="ignore"):  # on Rényi orders, that bound the grid alone
        return float(accountant.get_epsilon(delta))


def noise_multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """Return the least noise, to a two-thousandth, with which steps spend no more than ε.

    Args:
        epsilon: ε.
        delta: δ.
        rate: q, below 1.
        steps: how many.

    Returns:
        σ.

    Raises:
        OptionError: if ε is smaller than what the accountant can tell from none.
    """
    if epsilon < _LEAST:
        raise OptionError(
            f"--dp epsilon={epsilon:g}: the accountant errs by up to .01, so that ε must be at "
            f"least {_LEAST:g}"
        )
    high = low = 1.0  # little noise takes the accountant long: it is approached from above
    while spent(high, rate, steps, delta) > epsilon:
        low, high = high, 2 * high
    while low == high or spent(low, rate, steps, delta) <= epsilon:
        low, high = low / 1.5, min(high, low)
    while high / low > _PRECISION:
        middle = math.sqrt(low * high)
        low, high = (
            (low, middle) if spent(middle, rate, steps, delta) <= epsilon else (middle, high)
        )
    return high
