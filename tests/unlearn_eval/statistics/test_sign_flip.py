from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.statistics import sign_flip, sign_flip_test


def test_by_hand():
    # sums of ±1 ±2 ±3: 6, 4, 2, 0, 0, −2, −4, −6
    assert sign_flip_test([1, 2, 3])[:] == (2.0, 1 / 8, 3, True)
    assert sign_flip_test([-1, 2, 3]).p_value == 2 / 8
    assert sign_flip_test([1, 2, -3]).p_value == 5 / 8
    assert sign_flip_test([-1, -2, -3]).p_value == 1.0
    assert sign_flip_test([-1, -2, -3], "less").p_value == 1 / 8
    assert sign_flip_test([-1, -2, -3], "two-sided").p_value == 2 / 8
    assert sign_flip_test([1, 2, -3], "two-sided").p_value == 1.0
    assert sign_flip_test([0.0, 0.0]).p_value == 1.0
    assert sign_flip_test([0.0, 0.0], "two-sided").p_value == 1.0
    assert sign_flip_test([0.7]).p_value == 0.5


def test_as_many_flips_are_sampled_as_are_counted_on():
    # of pairs without a difference every flip gives as much
    assert sign_flip_test([0.0] * 41) == (0.0, 1.0, 41, False)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_counts_all_flips(alternative, n):
    rng = np.random.default_rng(n)
    for d in (rng.normal(0.4, 1, n), rng.integers(-3, 5, n).astype(float)):
        sums = np.array([np.dot(s, d) for s in product([-1, 1], repeat=n)])
        total = d.sum()
        reached = {
            "greater": sums >= total - 1e-9,
            "less": sums <= total + 1e-9,
            "two-sided": np.abs(sums) >= abs(total) - 1e-9,
        }[alternative]
        assert sign_flip_test(d, alternative).p_value == pytest.approx(reached.mean(), abs=1e-12)


def test_agrees_with_scipy():
    d = np.random.default_rng(0).normal(0.3, 1, 10)
    expected = stats.permutation_test(
        (d,), np.sum, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert sign_flip_test(d).p_value == pytest.approx(expected.pvalue)


def test_equal_differences_are_the_sign_test():
    d = np.where(np.arange(40) < 29, 0.1, -0.1)
    found = sign_flip_test(d)
    assert found.exact
    assert found.p_value == pytest.approx(stats.binom.sf(28, 40, 0.5))


def test_many_pairs_are_sampled(monkeypatch):
    d = np.random.default_rng(1).normal(0.25, 1, 38)
    exact = [sign_flip_test(d, side).p_value for side in ("greater", "two-sided")]
    monkeypatch.setattr(sign_flip, "MAX_PAIRS", 10)
    sampled = [sign_flip_test(d, side) for side in ("greater", "two-sided")]
    assert not any(found.exact for found in sampled)
    for found, p in zip(sampled, exact, strict=True):
        assert found.p_value == pytest.approx(p, abs=4 * np.sqrt(p / 1e5))
    assert sign_flip_test(np.ones(60)).p_value == 1e-5
    assert sign_flip_test(d, seed=1).p_value != sign_flip_test(d, seed=2).p_value
    assert sign_flip_test(d, seed=1) == sign_flip_test(d, seed=1)


def test_error_and_power():
    rng = np.random.default_rng(2)
    # differences of wildly unequal size: only their signs are random under the null
    clean = rng.choice([-1, 1], (1500, 12)) * rng.lognormal(0, 1.5, 12)
    wrong = np.mean([sign_flip_test(d).p_value <= 0.05 for d in clean])
    assert 0.03 <= wrong <= 0.065
    shown = np.mean([sign_flip_test(d).p_value <= 0.05 for d in rng.normal(1, 1, (300, 12))])
    assert shown > 0.85


def test_refuses_what_it_cannot_flip():
    with pytest.raises(DataError, match="differences"):
        sign_flip_test([])
    with pytest.raises(DataError, match="pair 1 has an infinite"):
        sign_flip_test([1.0, np.inf])
    with pytest.raises(OptionError, match="'up'"):
        sign_flip_test([1.0], "up")
