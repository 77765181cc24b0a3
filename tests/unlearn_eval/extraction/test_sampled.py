from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.extraction.sampled import agreement


def test_by_hand():
    found = agreement([1, 0, 3], 4, [np.log(0.5), -np.inf, 0.0])
    assert found.rate.tolist() == [0.25, 0, 0.75]
    np.testing.assert_allclose(found.predicted, [0.5, 0, 1])
    # two-sided: P(0) + P(1) + P(3) + P(4) = 10/16; certain; impossible
    np.testing.assert_allclose(found.p_value, [10 / 16, 1, 0])
    # 4 hits instead of 6, with a standard deviation of 1
    assert found.overall == pytest.approx(2 * stats.norm.sf(2))


def test_limits():
    assert agreement([0, 5], 5, [-np.inf, 0.0]).overall == 1
    assert agreement([1, 5], 5, [-np.inf, 0.0]).overall == 0
    assert agreement([1, 5], 5, [-np.inf, 0.0]).p_value.tolist() == [0, 1]
    assert agreement([], 5, []).overall == 1


def test_errors_are_held_under_the_truth_and_deviations_are_found():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.9, 6)
    wrong = [agreement(rng.binomial(200, p), 200, np.log(p)).overall < 0.05 for _ in range(300)]
    assert stats.binomtest(sum(wrong), 300, 0.05).pvalue > 0.001
    assert agreement(rng.binomial(200, 0.7 * p), 200, np.log(p)).overall < 1e-3


def test_refuses_what_are_no_counts():
    for hits, n in (([-1], 3), ([4], 3), ([0.5], 3), ([0], 0)):
        with pytest.raises(DataError, match="whole numbers"):
            agreement(hits, n, [-1.0])
    with pytest.raises(DataError, match="do not fit"):
        agreement([1, 2], 3, [-1.0])
