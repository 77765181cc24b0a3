from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.extraction.exposure import exposure


def test_by_hand():
    # eight values of a format: rank 1, 2, 4 and 8 of 8 are 3, 2, 1 and 0 bits
    others = [-2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]
    assert exposure(-1.0, others) == 3.0
    assert exposure(-2.5, others) == 2.0
    assert exposure(-4.5, others) == 1.0
    assert exposure(-9.0, others) == 0.0
    assert exposure(-np.inf, others) == 0.0
    # a tie with one of three likelier ones: rank 3½
    assert exposure(-4.0, others) == pytest.approx(3 - math.log2(3.5))


def test_a_larger_log_probability_never_lowers_exposure():
    rng = np.random.default_rng(0)
    others = rng.normal(-10, 2, 500)
    for how in ("exact", "sampled", "skew-normal"):
        bits = [exposure(s, others, how, 1e9) for s in np.linspace(-16, -1, 30)]
        assert np.all(np.diff(bits) >= 0)
        assert bits[-1] > bits[0] + 5


def test_sampling_ends_at_its_cap_and_the_fit_at_the_space():
    others = np.random.default_rng(1).normal(-40, 2, 1023)
    assert exposure(0.0, others, "sampled") == 10.0
    assert exposure(0.0, others, "skew-normal", 10**9) == pytest.approx(math.log2(10**9))
    with pytest.raises(OptionError, match="needs space"):
        exposure(0.0, others, "skew-normal")
    with pytest.raises(OptionError, match="needs space"):
        exposure(0.0, others, "skew-normal", 1023)


def test_a_sample_estimates_the_whole_format():
    rng = np.random.default_rng(2)
    everything = stats.skewnorm.rvs(-3, loc=-20, scale=4, size=200_000, random_state=rng)
    sample = rng.choice(everything, 6000, replace=False)
    for secret in (-26.0, -22.0, -20.0, -18.0):
        truth = exposure(secret, everything)
        assert exposure(secret, sample, "sampled") == pytest.approx(truth, abs=0.4)
        assert exposure(secret, sample, "skew-normal", 2e5) == pytest.approx(truth, abs=0.4)


def test_the_fit_reads_the_tail_of_log_perplexity():
    others = np.random.default_rng(3).normal(-20, 3, 4000)
    # likely secrets lie in the lower tail of perplexity, the upper one of log-probability
    truth = -stats.norm.logsf(-10, -20, 3) / math.log(2)
    assert truth > 11
    assert exposure(-10.0, others, "skew-normal", 1e9) == pytest.approx(truth, rel=0.15)
    assert exposure(-30.0, others, "skew-normal", 1e9) < 0.01


def test_memorised_secrets_stand_out_and_unknown_ones_do_not():
    rng = np.random.default_rng(4)
    unknown = [exposure(x[0], x[1:], "sampled") for x in rng.normal(-20, 3, (3000, 256))]
    assert np.mean(unknown) == pytest.approx(1 / math.log(2), abs=0.1)
    known = [exposure(x[0] + 9, x[1:], "sampled") for x in rng.normal(-20, 3, (300, 256))]
    assert np.mean(known) > 6


def test_values_that_the_model_rules_out_rank_below_every_other():
    others = np.random.default_rng(5).normal(-20, 3, 1000)
    half = np.concatenate((others, np.full(1000, -np.inf)))
    for how in ("sampled", "skew-normal"):
        one = exposure(-20.0, others, how, 1e6)
        assert exposure(-20.0, half, how, 1e6) == pytest.approx(one + 1, abs=0.01)


@pytest.mark.parametrize(
    ("secret", "candidates", "how", "match"),
    [
        (-1.0, [], "exact", "one row"),
        (-1.0, [[-1.0]], "exact", "one row"),
        (math.nan, [-1.0], "exact", "NaN"),
        (-1.0, [math.nan], "exact", "NaN"),
        (-1.0, [math.inf], "exact", r"\+inf"),
        (-1.0, np.arange(-99.0, 0.0), "skew-normal", "needs 100 candidates"),
        (-1.0, np.full(200, -3.0), "skew-normal", "different"),
    ],
)
def test_refuses_what_it_cannot_rank(secret, candidates, how, match):
    with pytest.raises(DataError, match=match):
        exposure(secret, candidates, how, 1e6)


def test_refuses_unknown_options():
    with pytest.raises(OptionError, match="'enumerated'"):
        exposure(-1.0, [-2.0], "enumerated")
