"""Variances that borrow from others: by hand, in the limits, and against draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from unlearn.errors import DataError
from unlearn_eval.statistics import VariancePrior, moderated, variance_prior


def test_equal_variances_are_one_variance():
    prior = variance_prior([2.0] * 7, 4)
    assert prior == VariancePrior(28, 2.0)
    # (28 · 2 + 4 · 5)/32
    assert float(moderated(5.0, 4, prior)) == pytest.approx(76 / 32)
    assert moderated(np.array([2.0, 10.0]), 4, prior) == pytest.approx([2.0, 3.0])


def test_without_a_prior_a_variance_is_its_own():
    for variances in ([3.0], [0.0, 0.0, 1.0]):
        prior = variance_prior(variances, 4)
        assert prior.freedom == 0
        assert float(moderated(0.7, 4, prior)) == pytest.approx(0.7)


def test_moments_by_hand():
    """Two variances a factor 10,000 apart: var(e) − ψ′(ν/2) = ψ′(d₀/2)."""
    freedom, variances = 10, [0.01, 100.0]
    e = np.log(variances) - special.digamma(5) + math.log(5)
    excess = np.var(e, ddof=1) - special.polygamma(1, 5)
    prior = variance_prior(variances, freedom)
    assert special.polygamma(1, prior.freedom / 2) == pytest.approx(excess)
    expected = e.mean() + special.digamma(prior.freedom / 2) - math.log(prior.freedom / 2)
    assert math.log(prior.variance) == pytest.approx(expected)


@pytest.mark.parametrize("freedom", [3.0, 8.0, 40.0])
def test_the_prior_of_many_draws_is_found(freedom):
    rng = np.random.default_rng(0)
    true = freedom * 2.0 / rng.chisquare(freedom, 20_000)
    prior = variance_prior(true * rng.chisquare(5, 20_000) / 5, 5)
    assert prior.freedom == pytest.approx(freedom, rel=0.1)
    assert prior.variance == pytest.approx(2.0, rel=0.05)


def test_a_moderated_t_is_a_t_of_more_degrees():
    """d₀ + ν degrees of freedom, which no other number would fit."""
    rng = np.random.default_rng(1)
    prior, n, k = VariancePrior(12.0, 1.5), 40_000, 5
    sigma2 = prior.freedom * prior.variance / rng.chisquare(prior.freedom, n)
    values = np.sqrt(sigma2) * rng.normal(size=(k, n))
    sd = np.sqrt(moderated(values.var(axis=0, ddof=1), k - 1, prior))
    t = np.sqrt(k) * values.mean(axis=0) / sd
    assert stats.kstest(t, stats.t(prior.freedom + k - 1).cdf).pvalue > 0.01
    assert stats.kstest(t, stats.t(k - 1).cdf).pvalue < 1e-6


@pytest.mark.parametrize("variances", [[-1.0, 1.0], [math.inf, 1.0], []])
def test_what_is_no_variance_is_refused(variances):
    with pytest.raises(DataError):
        variance_prior(variances, 4)
