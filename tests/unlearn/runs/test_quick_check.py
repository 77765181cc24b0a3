"""How much a loss has risen, as far as a sample tells."""

from __future__ import annotations

import math

import pytest

from unlearn.runs.quick_check import Measured


def looked(*losses: float) -> Measured:
    return Measured(sum(losses) / len(losses), 0.0, len(losses), losses)


def test_a_rise_by_hand():
    before, after = looked(1.0, 2.0, 3.0), looked(1.5, 2.0, 4.0)
    # differences 0.5, 0, 1: mean 0.5, unbiased variance 0.25; three of twelve records
    assert after.rise_since(before, 12) == pytest.approx((0.5, math.sqrt(0.75 * 0.25 / 3)))
    assert before.rise_since(after, 12)[0] == pytest.approx(-0.5)
    # all records: nothing is left to chance
    assert after.rise_since(before, 3) == pytest.approx((0.5, 0.0))


def test_one_record_of_several_tells_nothing_for_sure():
    assert looked(2.0).rise_since(looked(1.0), 5) == (1.0, math.inf)
    assert looked(2.0).rise_since(looked(1.0), 1) == (1.0, 0.0)


def test_a_sample_s_error_is_that_of_samples():
    import numpy as np

    rng = np.random.default_rng(0)
    change = rng.normal(0.3, 1.0, 100)
    before = looked(*[0.0] * 40)
    found = [
        looked(*rng.choice(change, 40, replace=False)).rise_since(before, 100) for _ in range(2000)
    ]
    means, errors = np.array(found).T
    assert means.mean() == pytest.approx(change.mean(), abs=0.01)
    assert means.std() == pytest.approx(np.sqrt((errors**2).mean()), rel=0.06)
