from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.statistics import MIN_TWINS, proportion_interval, subject_rank_test, twin_theta


def wilson(rate, size, freedom):
    k = stats.t.ppf(0.975, freedom) ** 2 / size
    return tuple(np.sort(np.roots([1 + k, -(2 * rate + k), rate**2]).real))


def test_theta_by_hand():
    # shares of twins below: 1, ½ (a tie and a loss would be ¼), 0, ¼
    found = twin_theta([3.0, 1.0, 0.0, 1.0], [[1, 2], [0, 2], [5, 6], [1, 9]])
    wins = np.array([1.0, 0.5, 0.0, 0.25])
    assert found.value == pytest.approx(wins.mean())
    variance = np.var(wins, ddof=1) / 4
    size = wins.mean() * (1 - wins.mean()) / variance
    freedom = min(3, 8 / (stats.kurtosis(wins, fisher=False) - 1 + 2 / 3))
    assert (found.low, found.high) == pytest.approx(wilson(wins.mean(), size, freedom))
    assert found[3:6] == (4, 0.95, "matched")


def test_more_than_half_means_the_forgotten_score_higher():
    rng = np.random.default_rng(0)
    twins = rng.normal(size=(200, 5))
    assert twin_theta(rng.normal(1, 1, 200), twins).low > 0.6
    assert twin_theta(rng.normal(-1, 1, 200), twins).high < 0.4
    clean = twin_theta(rng.normal(size=200), twins)
    assert clean.low < 0.5 < clean.high


def test_matching_removes_what_a_record_shares_with_its_twins():
    rng = np.random.default_rng(1)
    level = rng.normal(0, 10, 100)
    forget, twins = level + 1 + rng.normal(0, 0.5, 100), level + rng.normal(0, 0.5, 100)
    assert twin_theta(forget, twins).low > 0.8
    assert twin_theta(forget, rng.permutation(twins)).value < 0.7


def test_theta_at_its_ends_is_exact():
    found = twin_theta(np.ones(30), np.zeros((30, 4)))
    assert found[:3] == proportion_interval(np.ones(30))[:3]
    labels = np.arange(30) // 3
    assert twin_theta(np.zeros(30), np.ones((30, 4)), clusters=labels).high == pytest.approx(
        proportion_interval(np.zeros(10)).high
    )
    tied = twin_theta(np.zeros(30), np.zeros(30))
    assert tied.value == 0.5
    assert tied.low < 0.4


def test_theta_by_subject():
    rng = np.random.default_rng(2)
    labels = np.arange(60) // 5
    effect = rng.normal(size=12)[labels]
    forget, twins = effect + rng.normal(0, 0.3, 60), rng.normal(size=(60, 3))
    wide, narrow = twin_theta(forget, twins, clusters=labels), twin_theta(forget, twins)
    assert wide.method == "cluster"
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
    assert twin_theta(forget, twins, clusters=labels // 2).method == "conditional"


def test_theta_refuses_what_does_not_fit():
    for twins in ([[1.0]], [1.0, 2.0, 3.0], np.empty((2, 0)), np.ones((2, 1, 1))):
        with pytest.raises(DataError, match=r"twins of shape|\[records, twins\]"):
            twin_theta([1.0, 2.0], twins)
    with pytest.raises(DataError, match="twins of record 1 hold NaN"):
        twin_theta([1.0, 2.0], [[1.0], [np.nan]])
    alone = twin_theta([1.0], [[0.0, 2.0]])
    assert (alone.value, alone.method) == (0.5, "none")


def test_rank_by_hand():
    twins = np.arange(1.0, 20.0)  # median of all 20 with 0: 9.5
    above = subject_rank_test(30.0, twins, "greater")
    assert (above.rank, above.subjects, above.p_value) == (1, 20, 0.05)
    assert subject_rank_test(30.0, twins, "less").p_value == 1.0
    assert subject_rank_test(0.0, twins, "less").p_value == 0.05
    assert subject_rank_test(18.0, twins, "greater").rank == 3  # 18 itself, and 18 and 19
    assert subject_rank_test(30.0, twins).p_value == 0.05
    assert subject_rank_test(-10.0, twins).p_value == 0.05
    assert subject_rank_test(10.0, twins).p_value == 1.0


def test_fewer_than_nineteen_twins_decide_nothing():
    found = subject_rank_test(99.0, np.arange(18.0), "greater")
    assert np.isnan(found.p_value)
    assert found.note == "18 twin subjects cannot show a difference at 5 %; 19 would"
    assert MIN_TWINS == 19
    with pytest.raises(DataError, match="finite"):
        subject_rank_test(np.inf, np.arange(19.0))
    with pytest.raises(DataError, match="twins"):
        subject_rank_test(0.0, [])
    with pytest.raises(OptionError, match="'above'"):
        subject_rank_test(0.0, np.arange(19.0), "above")


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_rank_test_is_exact(alternative):
    """Among exchangeable subjects every rank is equally likely."""
    rng = np.random.default_rng(3)
    p = [subject_rank_test(x[0], x[1:], alternative).p_value for x in rng.normal(size=(4000, 20))]
    for level in (0.05, 0.25, 0.5):
        assert np.mean(np.array(p) <= level) == pytest.approx(level, abs=4 * np.sqrt(level / 4000))


def test_rank_test_sees_a_subject_that_is_still_there():
    rng = np.random.default_rng(4)
    for sign, alternative in ((1, "greater"), (-1, "less"), (1, "two-sided"), (-1, "two-sided")):
        draws = rng.normal(size=(300, 20))
        p = [subject_rank_test(x[0] + 5 * sign, x[1:], alternative).p_value for x in draws]
        assert np.mean(np.array(p) <= 0.05) > 0.9
