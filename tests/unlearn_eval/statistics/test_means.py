from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.statistics import mean_interval, paired_difference


def test_is_students_interval():
    values = np.random.default_rng(0).normal(3, 2, 17)
    found = mean_interval(values, 0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found[3:] == (17, 0.9, "t", None, "")
    own = mean_interval(values, 0.9, range(17))
    assert own[:6] == found[:6]
    assert own.clusters == 17


def test_equal_clusters_are_students_interval_of_cluster_means(clustered):
    values, labels = clustered(np.random.default_rng(1), 10, 6)
    found = mean_interval(values, clusters=labels)
    means = values.reshape(10, 6).mean(axis=1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.method, found.clusters, found.n) == ("cluster", 10, 60)


def test_nine_clusters_are_conditional(clustered):
    values, labels = clustered(np.random.default_rng(2), 9, 6)
    found = mean_interval(values, clusters=labels)
    assert found[:3] == mean_interval(values)[:3]
    assert (found.method, found.clusters) == ("conditional", 9)
    assert "only 9 clusters" in found.note


def test_what_has_no_interval_says_so():
    one = mean_interval([2.0])
    assert (one.value, one.method) == (2.0, "none")
    assert np.isnan([one.low, one.high]).all()
    assert "one record" in one.note
    for values, mean in [([-np.inf, 1.0], -np.inf), ([np.inf, -np.inf], np.nan)]:
        infinite = mean_interval(values)
        np.testing.assert_equal(infinite.value, mean)
        assert np.isnan([infinite.low, infinite.high]).all()
        assert "infinite" in infinite.note
    with pytest.raises(DataError, match=r"value 1 \(from 0\) is NaN"):
        mean_interval([1.0, np.nan])
    with pytest.raises(DataError, match="shape"):
        mean_interval([])
    with pytest.raises(OptionError, match="level"):
        mean_interval([1.0, 2.0], 95)


def test_paired_difference_is_first_minus_second():
    rng = np.random.default_rng(3)
    before = rng.normal(size=25)
    after = before + rng.normal(0.5, 0.2, 25)
    found = paired_difference(after, before)
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.low > 0
    assert paired_difference(before, after).high < 0
    labels = np.arange(25) // 2
    assert paired_difference(after, before, clusters=labels).method == "cluster"


def test_paired_difference_refuses_what_cannot_be_paired():
    with pytest.raises(DataError, match="3 against 2"):
        paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(DataError, match="both -inf"):
        paired_difference([1.0, -np.inf], [1.0, -np.inf])
    assert paired_difference([1.0, -np.inf], [1.0, 2.0]).value == -np.inf
