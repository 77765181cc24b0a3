"""From ε to noise and back, against another accountant's values and a formula."""

from __future__ import annotations

import math

import pytest
from scipy import optimize, stats

pytest.importorskip("opacus")

from unlearn.errors import OptionError
from unlearn.training.private.accounting import noise_multiplier, spent


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "epsilon"),
    # δ = 1e-6, by Microsoft's prv_accountant, as Opacus' own tests have them
    [(1.5, 0.05, 1000, 6.2100), (0.8, 0.001, 1000, 0.4778), (3.0, 0.2, 100, 3.3812)],
)
def test_epsilon_is_that_of_another_accountant(
    noise: float, rate: float, steps: int, epsilon: float
) -> None:
    found = spent(noise, rate, steps, 1e-6)
    assert epsilon - 1e-3 < found < epsilon + 0.03  # an upper bound, with its numerical error


def test_it_is_tighter_than_moments() -> None:
    # Abadi et al. (1607.00133, section 5): q = .01, σ = 4, δ = 1e-5, 10 000 steps: ε = 1.26
    assert 0.8 < spent(4.0, 0.01, 10_000, 1e-5) < 1.26


def test_where_all_take_part_it_is_the_gaussian_mechanism() -> None:
    # Balle and Wang (1805.06530, theorem 8), with sensitivity √steps / σ
    ratio = math.sqrt(10) / 5.0

    def delta(epsilon: float) -> float:
        a, b = ratio / 2 - epsilon / ratio, -ratio / 2 - epsilon / ratio
        return float(stats.norm.cdf(a) - math.exp(epsilon) * stats.norm.cdf(b))

    exact = optimize.brentq(lambda e: delta(e) - 1e-3, 0.1, 20)
    assert spent(5.0, 1 - 1e-9, 10, 1e-3) == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_the_noise_spends_no_more_than_epsilon_and_little_less(epsilon: float) -> None:
    noise = noise_multiplier(epsilon, 1e-3, 0.1, 50)
    assert 0.99 * epsilon <= spent(noise, 0.1, 50, 1e-3) <= epsilon


def test_an_epsilon_below_the_accountants_error_is_refused() -> None:
    with pytest.raises(OptionError, match="epsilon=0.04: the accountant errs"):
        noise_multiplier(0.04, 1e-3, 0.1, 50)
