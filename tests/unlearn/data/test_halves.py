"""Half-splits: who is in which, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from unlearn.data.records import Records
from unlearn.data.splits import half_splits
from unlearn.errors import DataError, OptionError


def rows(n: int, size: int = 1) -> Records:
    """Records of subjects with `size` records each; none where size is 1."""
    return Records.from_rows(
        {"id": f"r{i}", "text": f"text {i}"} | ({"subject": f"s{i // size}"} if size > 1 else {})
        for i in range(n)
    )


def members(splits: list[list[int]], n: int) -> np.ndarray:
    found = np.zeros((len(splits), n), dtype=bool)
    for split, row in zip(splits, found, strict=True):
        row[split] = True
    return found


@pytest.mark.parametrize("size", [1, 3])
def test_every_record_is_in_exactly_half_and_the_halves_are_equal(size: int) -> None:
    inside = members(half_splits(rows(60, size), 8, seed=0), 60)
    assert (inside.sum(0) == 4).all()
    assert (inside.sum(1) == 30).all()
    if size > 1:  # a person is in or out as a whole
        people = inside.reshape(8, 20, 3)
        assert (people.all(2) | ~people.any(2)).all()
    again = members(half_splits(rows(60, size), 8, seed=0), 60)
    other = members(half_splits(rows(60, size), 8, seed=1), 60)
    assert (inside == again).all()
    assert (inside != other).any()


def test_more_pairs_do_not_change_the_first_ones() -> None:
    assert half_splits(rows(20), 8, 5)[:4] == half_splits(rows(20), 4, 5)


def test_pairs_are_drawn_apart() -> None:
    # two records share the side of a pair with probability 1/2 − 1/(2(n − 1)), from the equal sizes
    n, pairs = 20, 4000
    first = members(half_splits(rows(n), 2 * pairs, 0), n)[::2]
    assert first.mean() == 0.5
    assert abs(first.mean(0) - 0.5).max() < 4 * 0.5 / pairs**0.5
    together = (first[:, 0] == first[:, 1]).mean()
    assert together == pytest.approx((n / 2 - 1) / (n - 1), abs=4 * 0.5 / pairs**0.5)


def test_copies_and_chains_of_copies_stay_together() -> None:
    data = Records.from_rows(
        [
            {"id": "a1", "subject": "a", "text": "mine"},
            {"id": "a2", "subject": "a", "text": "shared"},
            {"id": "b1", "subject": "b", "text": "shared"},
            {"id": "b2", "subject": "b", "text": "other"},
            *({"id": f"c{i}", "text": f"{i}"} for i in range(4)),
        ]
    )
    inside = members(half_splits(data, 20, 0), 8)
    assert (inside[:, :4].all(1) | ~inside[:, :4].any(1)).all()
    assert (inside.sum(0) == 10).all()
    assert (abs(inside.sum(1) - 4) <= 2).all()  # the four of a kind are all on one side


def test_a_seed_below_zero_is_refused() -> None:
    records = Records.from_rows([{"text": "a"}, {"text": "b"}])
    with pytest.raises(OptionError, match="--seed -1: a seed is 0 or more"):
        half_splits(records, 2, -1)


def test_what_has_no_halves_is_refused() -> None:
    with pytest.raises(OptionError, match="odd"):
        half_splits(rows(4), 3, 0)
    with pytest.raises(DataError, match="one subject"):
        half_splits(rows(4, 4), 2, 0)
