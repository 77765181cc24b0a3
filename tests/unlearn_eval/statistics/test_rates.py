from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.statistics import proportion_interval, tpr_at_fpr


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
    assert spread.low < spread.value < spread.high
    assert (spread.low, spread.high) == pytest.approx(plain_wilson(0.4, 120, 11))


def plain_wilson(rate, n, freedom):
    """Oracle: the roots of (p − θ)² = t² θ(1 − θ)/n."""
    k = stats.t.ppf(0.975, freedom) ** 2 / n
    return tuple(np.sort(np.roots([1 + k, -(2 * rate + k), rate**2]).real))


def test_clusters_are_wilsons_limits_at_the_effective_size(clustered):
    values, labels = clustered(np.random.default_rng(3), 12, 6)
    hits = values < -0.4
    rate, means = hits.mean(), hits.reshape(12, 6).mean(axis=1)
    variance = np.var(means, ddof=1) / 12
    kurtosis = stats.kurtosis(means, fisher=False)
    freedom = min(11, 24 / (kurtosis - 1 + 2 / 11))
    found = proportion_interval(hits, clusters=labels)
    size = rate * (1 - rate) / variance
    assert size < 72
    assert (found.low, found.high) == pytest.approx(plain_wilson(rate, size, freedom))


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
