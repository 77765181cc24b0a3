"""Which records a run takes out, which it keeps, and which it must not mix with them."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import numpy as np

from unlearn.data.records import Records
from unlearn.errors import DataError, OptionError, SelectionError

__all__ = ["check_disjoint", "half_splits", "loaded", "retained"]


def loaded(source: str | Path | Records) -> Records:
    """Return records, reading them where a file is named.

    Args:
        source: records, or where they are.

    Returns:
        The records.
    """
    return source if isinstance(source, Records) else Records.load(source)


def retained(
    records: Records, gone: Records, retain: str | Path | Records | None, *, needed: bool
) -> Records:
    """Return the records to keep: those given, else the rest of the data.

    Args:
        records: the data.
        gone: what is taken out of it.
        retain: the records to keep, or a file of them, where they are given.
        needed: refuse to keep none.

    Returns:
        The records to keep.

    Raises:
        DataError: if none is left though some are needed, or one has the content of one that goes.
    """
    kept = (loaded(retain) if retain is not None else records).without(gone)
    if retain is not None:
        contents = {r.canonical for r in gone}
        same = [i for i, r in enumerate(kept) if r.canonical in contents]
        if same:
            raise DataError(
                f"{kept.source}: {len(same)} retain record(s) have the same content as records to "
                f"forget, first {kept[same[0]].id!r}; take them out of --retain"
            )
    if not len(kept):
        if retain is None and needed:
            raise SelectionError(
                "--forget names every record of --data, so nothing is left to retain; pass other "
                "records with --retain, or use a method that needs none (flat, grad_ascent, "
                "task_vector)"
            )
        if needed:
            raise DataError(f"{kept.source}: no record is left to retain")
    return kept


def check_disjoint(unseen: Records | None, gone: Records, kept: Records) -> None:
    """Refuse a holdout that shares records with what the model was trained on.

    Args:
        unseen: the holdout, if there is one.
        gone: what is taken out.
        kept: what is kept.

    Raises:
        DataError: naming the first record that is in both.
    """
    if unseen is None:
        return
    known = {r.canonical for part in (gone, kept) for r in part}
    shared = [r.id for r in unseen if r.canonical in known]
    if shared:
        raise DataError(
            f"--holdout {unseen.source}: {len(shared)} record(s) are also in the forget or retain "
            f"data, first {shared[0]!r}; a holdout must be unseen"
        )


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
