from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import OptionError
from unlearn_eval.statistics import (
    auc_tost,
    nonmembers_needed,
    proportion_interval,
    records_for_equivalence,
    records_needed,
)


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


def test_rule_of_three():
    assert records_needed(0.05) == 59
    assert records_needed(0.01) == 299
    assert records_needed(0.01) == pytest.approx(3 / 0.01, rel=0.01)
    assert records_needed(0.5, level=0.5) == 1
    assert records_needed(0.9) == 2


@pytest.mark.parametrize("hits", [0, 1, 3, 20])
@pytest.mark.parametrize("rate", [0.3, 0.05, 0.004])
def test_is_the_smallest_number_whose_upper_limit_reaches_down(hits, rate):
    n = records_needed(rate, hits)
    assert stats.binom.cdf(hits, n, rate) <= 0.05 < stats.binom.cdf(hits, n - 1, rate)
    if hits < n <= 500:
        assert proportion_interval(np.arange(n) < hits, 0.9).high <= rate
        assert proportion_interval(np.arange(n - 1) < hits, 0.9).high > rate


@pytest.mark.parametrize(
    ("margin", "one", "ten"), [(0.05, 571, 315), (0.1, 143, 79), (0.15, 64, 35), (0.2, 36, 20)]
)
def test_published_sizes_for_equivalence(margin, one, ten):
    assert records_for_equivalence(margin) == one
    assert records_for_equivalence(margin, 10) == ten


def test_refuses_the_impossible():
    for options in ({"rate": 0}, {"rate": 1}, {"rate": 0.1, "hits": -1}, {"rate": 0.1, "level": 1}):
        with pytest.raises(OptionError):
            records_needed(**options)
    for options in ({"margin": 0.5}, {"margin": 0.1, "twins": 0}, {"margin": 0.1, "power": 1}):
        with pytest.raises(OptionError, match="power"):
            records_for_equivalence(**options)


@pytest.mark.slow
@pytest.mark.parametrize(("margin", "twins"), [(0.15, 1), (0.1, 10)])
def test_that_many_records_have_the_power(margin, twins):
    rng = np.random.default_rng(0)
    n = records_for_equivalence(margin, twins)
    shown = [
        auc_tost(rng.normal(size=n), rng.normal(size=n * twins), margin).equivalent
        for _ in range(2000)
    ]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.04)
