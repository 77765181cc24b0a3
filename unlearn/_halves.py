"""Split records into halves of which every record is in exactly one of each pair."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from unlearn.errors import DataError, OptionError
from unlearn.records import Records

__all__ = ["half_splits"]


def half_splits(records: Records, count: int, seed: int) -> list[list[int]]:
    """Draw half-splits such that each record is in exactly half of them.

    Splits 2j and 2j + 1 are a random half and the other half, so that models trained on them have
    seen equally much, but for at most the records of one subject, and more pairs can be added
    without changing those there are.
    (White-box and black-box attacks by shadow models of random halves: Sablayrolles et al.,
    1908.11229, section 4; that each record is in exactly half of them: LiRA, 2112.03570, section
    6.1 and its code.) A subject is in or out as a whole, and so are records of the same content:
    a person whose other records were trained on was not left out.

    Args:
        records: what to split.
        count: number of splits, even.
        seed: of what is drawn.

    Returns:
        For each split the positions of its records, ascending.

    Raises:
        DataError: if all records are of one subject.
        OptionError: if `count` is odd.
    """
    if count % 2:
        raise OptionError(f"half-splits come in pairs: --count {count} is odd")
    units = _units(records)
    if len(units) < 2:
        raise DataError(
            f"{records.source}: its records are all of one subject or content, which cannot be "
            "split into halves"
        )
    splits: list[list[int]] = []
    for pair in range(count // 2):
        sides: tuple[list[int], list[int]] = ([], [])
        for unit in np.random.default_rng((seed, pair)).permutation(len(units)):
            min(sides, key=len).extend(units[unit])
        splits += map(sorted, sides)
    return splits


def _units(records: Records) -> list[list[int]]:
    """Return the positions of what must stay together: one subject, or one content."""
    parent = list(range(len(records)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for i, record in enumerate(records):
        keys = [("content", record.canonical)]
        if record.subject is not None:
            keys.append(("subject", record.subject))
        for key in keys:
            parent[root(i)] = root(first.setdefault(key, i))
    units: dict[int, list[int]] = {}
    for i in range(len(records)):
        units.setdefault(root(i), []).append(i)
    return list(units.values())
