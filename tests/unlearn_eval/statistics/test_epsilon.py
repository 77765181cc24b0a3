"""Lower bounds of ε from guesses: worked values, published ones, and error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from unlearn_eval.statistics.epsilon import epsilon_bound, guesses_p_value, right_guesses


def test_ties_are_half_a_guess_rounded_down() -> None:
    assert right_guesses(np.array([1.0, 0.5, -1.0])) == 2
    assert right_guesses(np.array([1.0, 0.0, 0.0, 0.0])) == 2


def test_without_delta_it_is_a_binomial_tail() -> None:
    assert guesses_p_value(3, 3, 3, math.log(3), 0.0) == pytest.approx(0.75**3)
    assert guesses_p_value(0, 5, 9, 1.0, 0.0) == 1.0
    assert guesses_p_value(8, 10, 10, 0.0, 0.0) == pytest.approx((45 + 10 + 1) / 1024)


def test_delta_adds_what_the_theorem_says() -> None:
    # by hand: r = v = m = 2, ε = 0: P(W = 2) = 1/4; below it 1/2 (i = 1), then 3/4 over i = 2
    assert guesses_p_value(2, 2, 2, 0.0, 0.01) == pytest.approx(0.25 + 2 * 2 * 0.01 * 0.5)
    # r = 2, v = 1: below it P(W = 0) = 1/4 with i = 1 only
    assert guesses_p_value(1, 2, 4, 0.0, 0.01) == pytest.approx(0.75 + 2 * 4 * 0.01 * 0.25)
    assert guesses_p_value(2, 2, 2, 0.0, 1.0) == 1.0


def test_a_count_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="5 right of 4"):
        guesses_p_value(5, 4, 9, 1.0, 0.0)


@pytest.mark.parametrize(("pairs", "ceiling"), [(143, 3.8552), (100, 3.4930), (1000, 5.8091)])
def test_the_ceiling_of_perfect_guesses(pairs: int, ceiling: float) -> None:
    chance = 0.05 ** (1 / pairs)
    assert math.log(chance / (1 - chance)) == pytest.approx(ceiling, abs=1e-4)
    bound = epsilon_bound(pairs, pairs, pairs, 0.0, 0.95)
    assert bound.low == bound.ceiling == pytest.approx(ceiling, abs=1e-4)


def test_a_swap_shows_half_as_much_of_adding_or_removing() -> None:
    plain, swapped = (epsilon_bound(130, 143, 143, 0.0, 0.95, k) for k in (1, 2))
    assert swapped.low == pytest.approx(plain.low / 2, abs=1e-5)
    assert swapped.ceiling == pytest.approx(3.855 / 2, abs=1e-3)
    both = guesses_p_value(130, 143, 143, 2 * 0.8, (1 + math.exp(0.8)) * 1e-4)
    bound = epsilon_bound(130, 143, 143, 1e-4, 0.95, 2)
    assert (bound.low > 0.8) == (both <= 0.05)
    assert bound.low < swapped.low


def test_guesses_by_chance_show_nothing() -> None:
    assert epsilon_bound(72, 143, 143, 1e-5, 0.95).low == 0.0


def test_randomised_response_is_accused_no_more_often_than_allowed() -> None:
    epsilon, pairs = 1.0, 60
    rate = 1 / (1 + math.exp(-epsilon))
    wrong = sum(
        stats.binom.pmf(v, pairs, rate)
        for v in range(pairs + 1)
        if epsilon_bound(v, pairs, pairs, 0.0, 0.95).low > epsilon
    )
    assert 0.02 < wrong <= 0.05
