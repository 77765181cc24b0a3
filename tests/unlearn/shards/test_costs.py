"""What a deletion costs with K shards, worked by hand."""

from __future__ import annotations

import pytest

from unlearn.provenance.keys import Key
from unlearn.shards.assignment import shard_of
from unlearn.shards.costs import forecasts

KEY = Key(b"k" * 32)


def test_one_shard_costs_all_of_it() -> None:
    (one,) = forecasts({"a": [3, 4], "b": [5]}, 2, KEY, [1])
    assert (one.expected, one.worst, one.largest, one.smallest) == (1, 1, 1, 3)


def test_shards_by_hand() -> None:
    units = [f"u{i}" for i in range(50)]
    first = (u for u in units if shard_of(u, 2, KEY) == 0)
    a, b = next(first), next(first)
    c = next(u for u in units if shard_of(u, 2, KEY) == 1)
    (two,) = forecasts({a: [10], b: [20, 10], c: [60]}, 1, KEY, [2])
    # T = 100; a leaves 30 of 90, b leaves 10 of 70, c leaves nothing of 40
    costs = [30 / 90, 10 / 70, 0]
    assert two.expected == pytest.approx(sum(costs) / 3)
    assert two.worst == pytest.approx(max(costs))
    assert (two.largest, two.smallest, two.possible) == (0.6, 1, True)
    assert not forecasts({a: [10], b: [20, 10], c: [60]}, 2, KEY, [2])[0].possible
