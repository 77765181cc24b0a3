from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from scipy import integrate, special, stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.statistics import (
    Interval,
    holm,
    holm_intervals,
    ks_exact,
    prediction_limits,
)


def test_ks_p_value_is_the_share_of_arrangements():
    first, second = [0.1, 0.4, 0.5, 0.9], [0.2, 1.1, 1.2, 1.3, 1.4]

    def distance(a, b):
        grid = sorted([*a, *b])
        return max(
            abs(Fraction(sum(x <= t for x in a), len(a)) - Fraction(sum(x <= t for x in b), len(b)))
            for t in grid
        )

    pool = [*first, *second]
    seen = distance(first, second)
    splits = [set(chosen) for chosen in combinations(range(9), 4)]
    extreme = sum(
        distance([pool[i] for i in s], [pool[i] for i in range(9) if i not in s]) >= seen
        for s in splits
    )
    found = ks_exact(first, second)
    assert found.statistic == pytest.approx(float(seen))
    assert found.p_value == pytest.approx(extreme / len(splits))


def test_ks_limits():
    same = np.arange(40.0)
    assert ks_exact(same, same) == (0.0, 1.0)
    assert ks_exact(same, same + 100).p_value == pytest.approx(2 / special.comb(80, 40))
    with pytest.raises(DataError, match="NaN"):
        ks_exact([np.nan], [1.0])
    with pytest.raises(DataError, match="second sample"):
        ks_exact([1.0], [])


def test_ks_refuses_to_approximate():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="too large"):
        ks_exact(rng.normal(size=50_021), rng.normal(size=50_023))


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert holm([0.2]).tolist() == [0.2]


@pytest.mark.parametrize("wrong", [[], [-0.1], [1.1], [np.nan]])
def test_adjustments_refuse_what_is_no_p_value(wrong):
    with pytest.raises(DataError, match="p-values"):
        holm(wrong)


def normal_intervals(estimates, error=1.0):
    def make(value):
        def at(level):
            half = stats.norm.isf((1 - level) / 2) * error
            return Interval(value, value - half, value + half, 10, level, "t")

        return at

    return [make(value) for value in estimates]


def test_holm_intervals_by_hand():
    # beyond 2.39 at level 1 − .05/3, 2.24 at 1 − .05/2, 1.96 at .95
    found = holm_intervals(normal_intervals([2.3, 2.5, 1.0]), 0.0, 0.0)
    assert [round(i.level, 4) for i in found] == [0.975, 0.9833, 0.95]
    assert [i.low > 0 for i in found] == [True, True, False]
    stuck = holm_intervals(normal_intervals([2.3, 2.2, 1.0]), 0.0, 0.0)
    assert [round(i.level, 4) for i in stuck] == [0.9833] * 3
    below = holm_intervals(normal_intervals([-2.6, -1.0]), -0.2, 0.2)
    assert [i.high < -0.2 for i in below] == [True, False]
    one = holm_intervals(normal_intervals([1.0]), 0.0, 0.0, 0.9)
    assert one[0].level == pytest.approx(0.9)


def test_an_interval_that_ends_at_the_limit_decides_nothing():
    wide = Interval(-0.5, -1.0, -0.2, 9, 0.95, "normal")
    outside = Interval(0.9, 0.3, 1.5, 9, 0.95, "normal")
    asked = []

    def make(interval):
        return lambda level: asked.append(level) or interval

    holm_intervals([make(wide), make(outside)], -0.2, 0.2, 0.9)
    # both at first, then the one that was not decided
    assert asked == pytest.approx([0.95, 0.95, 0.9])


def test_holm_intervals_decide_as_holms_p_values_do():
    rng = np.random.default_rng(6)
    for estimates in rng.normal(0, 2, (200, 5)):
        found = holm_intervals(normal_intervals(estimates), 0.0, 0.0)
        decided = [i.low > 0 or i.high < 0 for i in found]
        adjusted = holm(2 * stats.norm.sf(np.abs(estimates)))
        assert decided == (adjusted < 0.05).tolist()


def test_holm_intervals_refuse_the_impossible():
    with pytest.raises(DataError, match="no probe"):
        holm_intervals([], 0.0, 1.0)
    with pytest.raises(OptionError, match="lower end first"):
        holm_intervals(normal_intervals([0.0]), 1.0, 0.0)
    with pytest.raises(OptionError, match="level"):
        holm_intervals(normal_intervals([0.0]), 0.0, 0.0, 95)


@pytest.mark.slow
def test_holm_keeps_the_familywise_error():
    rng = np.random.default_rng(2)
    p = rng.random((4000, 5))
    p[:, :2] = 1e-6  # two true effects among five
    assert np.mean([(holm(row)[2:] < 0.05).any() for row in p]) <= 0.06


@pytest.mark.parametrize(
    ("k", "margin", "equivalent", "power", "different"),
    [
        (5, 4, 1.98, 0.86, 3.04),
        (8, 4, 2.10, 0.91, 2.51),
        (12, 4, 2.17, 0.94, 2.29),
        (19, 4, 2.23, 0.96, 2.16),
        (5, 5, 2.75, 0.93, 3.04),
        (8, 5, 2.93, 0.97, 2.51),
        (12, 5, 3.05, 0.99, 2.29),
    ],
)
def test_prediction_limits_reproduce_the_published_table(k, margin, equivalent, power, different):
    found = prediction_limits(k, margin)
    assert round(found.equivalent, 2) == equivalent
    assert round(found.power, 2) == power
    assert round(found.different, 2) == different


@pytest.mark.parametrize("k", [2, 3, 5, 19, 100])
@pytest.mark.parametrize("margin", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_prediction_limits_solve_the_noncentral_t(k, margin, alpha):
    """Oracle: P(|Z + δ| ≤ q·S) integrated over the distribution of S = χ/√ν."""
    found = prediction_limits(k, margin, alpha)
    scale = np.sqrt(1 + 1 / k)
    q, delta, nu = found.equivalent / scale, margin / scale, k - 1

    def inside(s):
        bound = q * s / np.sqrt(nu)
        return stats.chi.pdf(s, nu) * (special.ndtr(bound - delta) - special.ndtr(-bound - delta))

    error, _ = integrate.quad(inside, 0, np.inf, limit=500, epsabs=1e-12)
    assert error == pytest.approx(alpha, rel=1e-6)


def test_more_references_and_wider_margins_help():
    power = [prediction_limits(k).power for k in range(2, 30)]
    assert np.all(np.diff(power) > 0)
    limits = [prediction_limits(8, margin).equivalent for margin in (1, 2, 4, 8)]
    assert np.all(np.diff(limits) > 0)


@pytest.mark.parametrize("options", [{"k": 1}, {"k": 5, "margin": 0}, {"k": 5, "alpha": 1}])
def test_prediction_limits_refuse_the_impossible(options):
    with pytest.raises(OptionError):
        prediction_limits(**options)


@pytest.mark.slow
@pytest.mark.parametrize("k", [5, 12])
def test_error_rates_of_both_conclusions(k):
    rng = np.random.default_rng(3)
    draws = 100_000
    references = rng.normal(size=(draws, k))
    mean, s = references.mean(axis=1), references.std(axis=1, ddof=1)
    found = prediction_limits(k, 4.0)
    at_margin = np.abs(rng.normal(4.0, 1.0, draws) - mean) <= found.equivalent * s
    clean = np.abs(rng.normal(0.0, 1.0, draws) - mean)
    assert at_margin.mean() == pytest.approx(0.05, abs=0.003)
    assert (clean > found.different * s).mean() == pytest.approx(0.05, abs=0.003)
    assert (clean <= found.equivalent * s).mean() == pytest.approx(found.power, abs=0.005)
