from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.statistics import auc, auc_difference


def states(rng, m=30, n=40):
    x, y = rng.normal(0.8, 1, m), rng.normal(size=n)
    return (x, y), (x - 0.6 + rng.normal(0, 0.5, m), y + rng.normal(0, 0.5, n))


def test_variance_is_delongs_with_the_covariance():
    rng = np.random.default_rng(0)
    first, second = states(rng)
    found = auc_difference(first, second)
    assert found.value == pytest.approx(auc(*first) - auc(*second))
    wins = [(np.sign(np.subtract.outer(x, y)) + 1) / 2 for x, y in (first, second)]
    s10 = np.cov([w.mean(axis=1) for w in wins])
    s01 = np.cov([w.mean(axis=0) for w in wins])
    contrast = np.array([1, -1])
    expected = contrast @ (s10 / 30 + s01 / 40) @ contrast
    gaps = [wins[0].mean(axis=a) - wins[1].mean(axis=a) for a in (1, 0)]
    parts = [np.var(g, ddof=1) / len(g) for g in gaps]
    each = [
        min(len(g) - 1, 2 * len(g) / (stats.kurtosis(g, fisher=False) - 1 + 2 / (len(g) - 1)))
        for g in gaps
    ]
    freedom = sum(parts) ** 2 / sum(v**2 / d for v, d in zip(parts, each, strict=True))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(expected)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    assert found.low > 0  # the first state is the easier one
    assert found[3:6] == (30, 0.95, "delong")


def test_swapping_states_or_sides_turns_the_sign():
    first, second = states(np.random.default_rng(1))
    forth, back = auc_difference(first, second), auc_difference(second, first)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    other = auc_difference(first[::-1], second[::-1])
    assert (other.low, other.high) == pytest.approx((-forth.high, -forth.low))


def test_pairing_helps():
    """Two states of the same records share their noise; two samples would not."""
    rng = np.random.default_rng(2)
    first, second = states(rng, 60, 60)
    paired = auc_difference(first, second)
    apart = auc_difference(first, tuple(rng.permutation(side) for side in second))
    assert paired.high - paired.low < 0.8 * (apart.high - apart.low)


def test_states_that_rank_alike_have_exact_limits():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=20), rng.normal(size=30)
    found = auc_difference((x, y), (3 * x + 1, 3 * y + 1))
    assert found.value == 0
    assert found.high == pytest.approx(1 - 0.05 ** (1 / 20))
    assert found.low == -found.high
    assert "20 disjoint pairs" in found.note


def test_clusters(clustered):
    rng = np.random.default_rng(4)
    (x, cx), (y, cy) = clustered(rng, 12, 5), clustered(rng, 12, 5)
    noise = rng.normal(size=(2, 60))
    states = (x, y), (x + noise[0], y + noise[1])
    found = auc_difference(*states, 0.95, cx, cy + 12)
    assert (found.method, found.clusters) == ("cluster", 24)
    assert found.high - found.low != pytest.approx(
        np.diff(auc_difference(*states)[1:3]).item(), rel=1e-3
    )
    few = auc_difference(*states, 0.95, cx // 3, cy + 12)
    assert few.method == "conditional"
    assert few[1:3] == auc_difference(*states)[1:3]


def test_limits_and_refusals():
    ends = auc_difference(([2.0, 3.0], [0.0, 1.0]), ([0.0, 3.0], [2.0, 1.0]))
    assert ends.high == 1.0
    alone = auc_difference(([1.0], [0.0, 2.0]), ([1.0], [0.0, 0.5]))
    assert (alone.value, alone.method) == (-0.5, "none")
    with pytest.raises(DataError, match="same records: 1 and 2 in the first, 2 and 2"):
        auc_difference(([1.0], [0.0, 2.0]), ([1.0, 2.0], [0.0, 0.5]))
    with pytest.raises(DataError, match="second nonmember: value 0"):
        auc_difference(([1.0], [0.0]), ([1.0], [np.nan]))
