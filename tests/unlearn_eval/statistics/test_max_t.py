"""The largest of several t values: between one test and Bonferroni, and as drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from unlearn_eval.statistics import MaxT


def test_copies_are_one_test():
    largest = MaxT(np.ones((3, 3)), 7)
    assert largest.p_value(2.5) == pytest.approx(2 * stats.t.sf(2.5, 7))
    assert largest.p_value(-2.5) == largest.p_value(2.5)
    assert largest.limit(0.05) == pytest.approx(stats.t.isf(0.025, 7))


def test_independent_values_are_nearly_as_many_tests():
    largest = MaxT(np.eye(4), 1000)
    alone = 2 * stats.norm.sf(2.6)
    assert largest.p_value(2.6) == pytest.approx(1 - (1 - alone) ** 4, rel=0.1)
    assert largest.limit(0.05) == pytest.approx(stats.norm.isf((1 - 0.95**0.25) / 2), abs=0.04)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_error_is_kept(correlation):
    matrix = np.full((3, 3), correlation) + (1 - correlation) * np.eye(3)
    rng = np.random.default_rng(5)
    z = rng.multivariate_normal(np.zeros(3), matrix, size=20_000)
    t = z / np.sqrt(rng.chisquare(6, (20_000, 1)) / 6)
    limit = MaxT(matrix, 6).limit(0.05)
    assert np.mean(np.abs(t).max(axis=1) > limit) == pytest.approx(0.05, abs=0.006)


def test_p_and_limit_agree_and_what_is_no_number_stays_none():
    largest = MaxT([[1.0, math.nan], [math.nan, 1.0]], 5)  # no correlation known: none is assumed
    assert largest.p_value(largest.limit(0.02)) == pytest.approx(0.02, abs=0.001)
    assert math.isnan(largest.p_value(math.nan))
    assert largest.p_value(math.inf) == 0.0
    assert largest.p_value(0.0) == 1.0
