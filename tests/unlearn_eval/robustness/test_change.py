"""How far models move, and what can be said of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn_eval.robustness import resemblance
from unlearn_eval.robustness.change import (
    ChangeComparison,
    ChangeCovariance,
    auc_change,
    compared,
    excess_interval,
    mean_change,
    resemblance_interval,
)
from unlearn_eval.statistics import paired_difference


def moved(values, codes=None):
    values = np.asarray(values, dtype=np.float64)
    where = np.arange(len(values)) if codes is None else np.asarray(codes)
    return mean_change(np.zeros_like(values), values, where)


def test_a_mean_s_change_has_the_variance_of_paired_differences():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=12), rng.normal(size=12)
    change = mean_change(a, b, np.arange(12))
    assert change.value == pytest.approx(np.mean(b - a))
    assert (change.parts**2).sum() == pytest.approx(np.var(b - a, ddof=1) / 12)
    found = paired_difference(b, a)
    low, high, *_ = excess_interval(compared([change], [[moved([0.0] * 12)]], 11), 0.95)
    assert (low, high) == (pytest.approx(found.low), pytest.approx(found.high))


def test_a_mean_s_change_by_cluster():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(12), 3)
    a, b = rng.normal(size=36), rng.normal(size=36)
    change = mean_change(a, b, labels)
    found = paired_difference(b, a, clusters=labels.tolist())
    low, high, *_ = excess_interval(compared([change], [[moved([0.0] * 36, labels)]], 11), 0.95)
    assert (low, high) == (pytest.approx(found.low), pytest.approx(found.high))


def test_an_auc_s_change_is_delong_s():
    rng = np.random.default_rng(2)
    x, y = rng.normal(1, 1, 15), rng.normal(0, 1, 20)
    x2, y2 = x + rng.normal(0, 0.5, 15), y + rng.normal(0.4, 0.5, 20)
    codes = np.arange(15), np.arange(15, 35)
    change = auc_change((x, y), (x2, y2), codes)
    wins = (x2[:, None] > y2).astype(float) - (x[:, None] > y)
    assert change.value == pytest.approx(wins.mean())
    # DeLong's variance: of the differences of placements, on either side
    expected = np.var(wins.mean(1), ddof=1) / 15 + np.var(wins.mean(0), ddof=1) / 20
    assert (change.parts**2).sum() == pytest.approx(expected)


def test_records_seeds_and_references_add_up_by_hand():
    ours = [moved([1.0, 3.0]), moved([3.0, 5.0])]  # 2 and 4
    theirs = [[moved([1.0, 1.0]), moved([2.0, 2.0])], [moved([0.0, 2.0]), moved([3.0, 5.0])]]
    found = compared(ours, theirs, 1)
    # references: 1.5 and 2.5; by seed 1 and 3
    assert (found.unlearned, found.reference) == (3.0, 2.0)
    records, seeds, references = found.errors
    # parts ∓1/√2·√... : variance of a mean of two values one off is 1
    assert (records.uu, records.ur, records.rr) == pytest.approx((1.0, 0.5, 0.25))
    assert seeds == pytest.approx((1.0, 1.0, 1.0, 1))
    assert references == pytest.approx((0.0, 0.0, 0.25, 1))
    low, high, error, freedom = excess_interval(found, 0.95)
    # of Δ_u − Δ_r: records 1 − 2·½ + ¼, seeds 0, references ¼
    assert error == pytest.approx(np.sqrt(0.5))
    assert freedom == pytest.approx(0.5**2 / (2 * 0.25**2))
    assert (low + high) / 2 == pytest.approx(1.0)
    assert high - low == pytest.approx(2 * stats.t.isf(0.025, 2) * np.sqrt(0.5))


def test_the_limits_of_r_solve_fieller_s_equation():
    found = ChangeComparison(2.0, 1.0, (ChangeCovariance(0.04, 0.01, 0.02, 30.0),))
    low, high = resemblance_interval(found, 0.95)
    t2 = stats.t.isf(0.025, 30) ** 2
    # (Δu − q Δr)² = t² (v_uu − 2 q v_ur + q² v_rr)
    a, b, c = 1 - t2 * 0.02, -2 * (2 - t2 * 0.01), 4 - t2 * 0.04
    q = np.roots([a, b, c])
    assert q.min() > 1
    wanted = sorted(resemblance(x, 1.0) for x in q)
    assert [low, high] == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize(
    ("unlearned", "reference", "wanted"),
    [
        (0.0, 0.0, (0, 1)),  # nothing is known
        (1.0, 1.0, (0.8, 1)),  # alike: the upper limit is reached
        (1.0, -1.0, (0, 0)),
        (5.0, 0.0, (0, 0.1)),
    ],
)
def test_limits_of_r(unlearned, reference, wanted):
    low, high = resemblance_interval(
        ChangeComparison(unlearned, reference, (ChangeCovariance(0.01, 0.0, 0.01, 40.0),)), 0.95
    )
    assert low <= resemblance(unlearned, reference) <= high
    assert (low, high) == pytest.approx(wanted, abs=0.08)


@pytest.mark.parametrize(
    "truth",
    [
        (1.0, 1.0),
        (2.0, 1.0),
        *(pytest.param(t, marks=pytest.mark.slow) for t in ((1.0, 0.0), (-1.0, -3.0), (0.0, 0.0))),
    ],
)
def test_r_is_covered(truth):
    """Twelve records that both models share, three references that differ among themselves."""
    rng = np.random.default_rng(3)
    inside, runs = 0, 120
    for _ in range(runs):
        common = rng.normal(0, 0.5, 12)
        ours = [moved(truth[0] + common + rng.normal(0, 0.8, 12))]
        theirs = [
            [moved(truth[1] + rng.normal(0, 0.3) + common + rng.normal(0, 0.8, 12))]
            for _ in range(3)
        ]
        low, high = resemblance_interval(compared(ours, theirs, 11), 0.95)
        inside += low - 1e-3 <= resemblance(*truth) <= high + 1e-3
    assert inside >= 0.89 * runs  # 95 % less three standard errors
