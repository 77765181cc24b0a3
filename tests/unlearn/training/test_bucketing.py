"""Groups of similar length: the cheapest cuts, and nothing lost or parted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from unlearn.data.tokenization import Example
from unlearn.training.bucketing import cut, length_groups
from unlearn.training.sampler import ALTERNATE, FORGET, RETAIN, Pairs, Rows, collate_pairs


def cost(lengths: list[int], ends: tuple[int, ...], price: int) -> int:
    starts = (0, *ends[:-1])
    return sum((b - a) * lengths[b - 1] + price for a, b in zip(starts, ends, strict=True))


@pytest.mark.parametrize("price", [0, 5, 20, 10**6])
def test_no_other_cuts_are_cheaper(price: int) -> None:
    rng = np.random.default_rng(0)
    for n in range(1, 8):
        lengths = sorted(rng.integers(1, 40, n).tolist())
        every = ((*inner, n) for k in range(n) for inner in itertools.combinations(range(1, n), k))
        least = min(cost(lengths, ends, price) for ends in every)
        assert cost(lengths, tuple(cut(lengths, price)), price) == least
    assert cut(lengths, 10**6) == [n]
    assert cut([3, 3, 3, 9], 1) == [3, 4]
    assert cut([], 0) == []


def example(name: str, length: int) -> Example:
    return Example(name, np.full(length, length), np.arange(length) >= 1)


@pytest.mark.parametrize("alternates", [True, False])
@pytest.mark.parametrize("price", [0, 10, 10**6])
def test_every_row_is_in_one_group_beside_its_alternate(price: int, alternates: bool) -> None:
    rng = np.random.default_rng(1)
    roles = [[example("", int(n)) for n in rng.integers(2, 30, 6)] for _ in range(3)]
    pairs = Pairs(roles[0], roles[1], roles[2] if alternates else ())
    rows = [Rows((i,), (i,), (i,) if alternates else ()) for i in (4, 0, 3, 5, 1, 2)]
    batch = collate_pairs([pairs[r] for r in rows])
    groups = length_groups(batch, price)
    assert (len(groups) == 1) == (price == 10**6)
    found = []
    for group in groups:
        forget, other = (group["index"][group["role"] == r] for r in (FORGET, ALTERNATE))
        if alternates:
            assert torch.equal(forget, other)
        role = group["role"]
        assert role.tolist() == sorted(role.tolist(), key=[FORGET, ALTERNATE, RETAIN].index)
        length = group["attention_mask"].sum(-1)
        assert group["input_ids"].shape[1] == length.max()
        assert torch.equal(group["target"].sum(-1), length - 1)
        # every token of these examples is the example's length
        assert torch.equal(group["input_ids"].max(-1).values, length)
        found += list(zip(role.tolist(), group["index"].tolist(), length.tolist(), strict=True))
    lengths = batch["attention_mask"].sum(-1).tolist()
    expected = zip(batch["role"].tolist(), batch["index"].tolist(), lengths, strict=True)
    assert sorted(found) == sorted(expected)
