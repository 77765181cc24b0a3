from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.statistics import nonmembers_needed, proportion_interval, tpr_at_fpr


@pytest.mark.parametrize(("hits", "n"), [(0, 59), (1, 20), (7, 20), (20, 20), (0, 1), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_is_clopper_pearson(hits, n, level):
    found = proportion_interval(np.arange(n) < hits, level)
    expected = stats.binomtest(hits, n).proportion_ci(level, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found[3:] == (n, level, "exact", None, "")


def test_published_sizes_for_zero_hits():
    """Upper one-sided 95 % limits: 59 records bound a rate at 5 %, 299 at 1 %."""
    assert proportion_interval(np.zeros(59), 0.9).high <= 0.05
    assert proportion_interval(np.zeros(58), 0.9).high > 0.05
    assert proportion_interval(np.zeros(299), 0.9).high <= 0.01
    assert proportion_interval(np.zeros(298), 0.9).high > 0.01


def test_clusters_widen_when_they_agree_and_never_narrow():
    labels = np.repeat(np.arange(12), 10)
    agree = proportion_interval(labels < 4, clusters=labels)
    plain = proportion_interval(labels < 4)
    assert agree.method == "cluster"
    assert agree.clusters == 12
    assert agree.low < plain.low
    assert agree.high > plain.high
    # whole clusters agreeing make about as much information as 12 records
    twelve = proportion_interval(np.arange(12) < 4)
    assert agree.high - agree.low == pytest.approx(twelve.high - twelve.low, rel=0.15)
    spread = proportion_interval(np.arange(120) % 10 < 4, clusters=labels)
    exact = proportion_interval(np.arange(120) % 10 < 4)
    assert (spread.low, spread.high) == (exact.low, exact.high)


@pytest.mark.parametrize("value", [0, 1])
def test_no_or_all_hits_count_clusters(value):
    labels = np.repeat(np.arange(12), 10)
    found = proportion_interval(np.full(120, value), clusters=labels)
    ten = proportion_interval(np.full(12, value))
    assert (found.low, found.high) == pytest.approx((ten.low, ten.high))
    few = proportion_interval(np.full(20, value), clusters=np.arange(20) // 10)
    assert few.method == "conditional"
    assert "only 2 clusters" in few.note


@pytest.mark.parametrize("values", [[], [0.5, 1], [2, 0], [np.nan]])
def test_refuses_what_is_not_yes_or_no(values):
    with pytest.raises(DataError, match="proportion"):
        proportion_interval(values)


def test_nonmembers_needed_is_the_smallest():
    assert nonmembers_needed(0.01) == 299
    assert nonmembers_needed(0.001) == 2995
    for fpr in (0.3, 0.05, 0.02, 0.0003):
        n = nonmembers_needed(fpr)
        assert 1 - (1 - fpr) ** n >= 0.95
        assert 1 - (1 - fpr) ** (n - 1) < 0.95
    for fpr in (0, 1, -1, 5, np.nan):
        with pytest.raises(OptionError, match="false-positive rate"):
            nonmembers_needed(fpr)


def test_tpr_by_hand():
    nonmember = np.arange(300.0)  # 1 % of 300 allows three: 299, 298, 297
    member = np.array([296.0, 296.5, 297.0, 400.0])
    found = tpr_at_fpr(member, nonmember, 0.01)
    assert found.value == 0.75
    assert found[1:3] == proportion_interval([0, 1, 1, 1])[1:3]
    assert (found.n, found.method) == (4, "exact")


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.29])
def test_threshold_never_lets_through_more_than_the_limit(fpr):
    rng = np.random.default_rng(0)
    for n in (299, 300, 350, 400, 1000):
        for ties in (False, True):
            scores = rng.integers(0, 30, n).astype(float) if ties else rng.normal(size=n)
            passed = tpr_at_fpr(scores, scores, fpr).value
            assert passed <= fpr
            if not ties:
                assert passed == np.floor(round(fpr * n, 9)) / n


def test_tpr_with_all_scores_tied_is_zero():
    assert tpr_at_fpr(np.ones(9), np.ones(299), 0.01).value == 0
    assert tpr_at_fpr(np.full(9, np.inf), np.full(299, np.inf), 0.01).value == 0
    assert tpr_at_fpr(np.ones(9), np.full(299, -np.inf), 0.01).value == 1


def test_too_few_nonmembers_are_refused_with_the_number_that_would_do():
    found = tpr_at_fpr(np.ones(40), np.zeros(298), 0.01)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.method == "none"
    assert found.note == "298 non-members cannot show a false-positive rate of 0.01; 299 would"
    assert "2995 would" in tpr_at_fpr(np.ones(40), np.zeros(400), 0.001).note


def test_tpr_takes_member_clusters():
    labels = np.arange(40) // 4
    assert tpr_at_fpr(np.arange(40) * 20.0, np.arange(400), 0.01, 0.95, labels).method == "cluster"


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_coverage_is_at_least_nominal(rate):
    n = 60
    intervals = [proportion_interval(np.arange(n) < hits) for hits in range(n + 1)]
    covered = [i.low <= rate <= i.high for i in intervals]
    assert stats.binom.pmf(np.arange(n + 1), n, rate)[covered].sum() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("unequal", [False, True])
def test_coverage_for_clusters(clustered, rate, unequal):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        values, labels = clustered(rng, 12, 5, unequal=unequal)
        found = proportion_interval(values < stats.norm.ppf(rate), clusters=labels)
        covered += found.low <= rate <= found.high
    assert covered / 2000 >= 0.93
