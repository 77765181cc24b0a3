"""Which records a run takes out, which it keeps, and which it must not mix with them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unlearn.data.near_duplicates import near_duplicates
from unlearn.data.record import Record
from unlearn.data.records import Records
from unlearn.errors import DataError, OptionError, SelectionError

__all__ = [
    "Kept",
    "apart",
    "check_disjoint",
    "half_splits",
    "loaded",
    "near_copies",
    "refuse_shared",
    "retained",
    "without_copies",
]

_MOST_COMPARED = 50_000
"""Records among which near-copies are looked for: 15 seconds."""

_SHOWN = 5
"""Near-copies that a note names."""


class Kept(NamedTuple):
    """The records that a run keeps, and what the user should know of those that it does not."""

    records: Records
    notes: list[str]


def loaded(source: str | Path | Records) -> Records:
    """Return records, reading them where a file is named."""
    return source if isinstance(source, Records) else Records.load(source)


def apart(records: Records, others: Iterable[Record]) -> Records:
    """Return the records whose content none of the others has, whatever their ids."""
    contents = {record.canonical for record in others}
    places = [i for i, record in enumerate(records) if record.canonical not in contents]
    return records if len(places) == len(records) else records.take(places)


def without_copies(records: Records, forget_records: Records) -> Kept:
    """Return the records to keep: none to forget, nor any with the content of one.

    A model that sees the same text under another id has not lost it.

    Args:
        records: the data.
        forget_records: what is taken out of it.

    Returns:
        The rest, possibly none, and a note of copies that went.
    """
    rest = records.without(forget_records)
    retain_records = apart(rest, forget_records)
    if len(retain_records) == len(rest):
        return Kept(rest, [])
    first = rest.without(retain_records).ids[0]
    return Kept(
        retain_records,
        [
            f"{records.source}: {len(rest) - len(retain_records)} more record(s) have the same "
            f"content as records to forget, first {first!r}: these copies are left out, too"
        ],
    )


def near_copies(forget_records: Records, retain_records: Records) -> list[str]:
    """Say which records to keep nearly repeat records to forget: what these hold, they may show.

    Args:
        forget_records: what is taken out.
        retain_records: what is kept.

    Returns:
        A note, or none.
    """
    if len(forget_records) + len(retain_records) > _MOST_COMPARED:
        return [
            f"more than {_MOST_COMPARED:,} records: nobody looked whether some that are kept "
            "nearly repeat those to forget"
        ]
    nearest: dict[str, tuple[float, str]] = {}
    for mine, other, alike in near_duplicates(forget_records, retain_records):
        nearest[other] = max(nearest.get(other, (0.0, "")), (alike, mine))
    if not nearest:
        return []
    pairs = sorted(nearest.items(), key=lambda item: -item[1][0])
    names = [f"{name!r} {like!r} ({share:.2f})" for name, (share, like) in pairs[:_SHOWN]]
    more = ["…"] * (len(pairs) > _SHOWN)
    return [
        f"{len(pairs)} record(s) that are kept nearly repeat records to forget: "
        f"{', '.join(names + more)}; what both say stays known, forget them, too, if that must go"
    ]


def refuse_shared(
    records: Iterable[Record], *others: Iterable[Record], where: str, what: str, advice: str
) -> None:
    """Refuse records whose content is that of others, whatever their ids.

    Args:
        records: looked through.
        *others: what they must not repeat.
        where: the file or option at fault, for the message.
        what: is wrong with so many records.
        advice: what to do about it.

    Raises:
        DataError: naming the first record that is in both.
    """
    contents = {record.canonical for part in others for record in part}
    shared = [record.id for record in records if record.canonical in contents]
    if shared:
        raise DataError(f"{where}: {len(shared)} {what}, first {shared[0]!r}; {advice}")


def retained(
    records: Records, forget_records: Records, retain: str | Path | Records | None, *, needed: bool
) -> Kept:
    """Return the records to keep: those given, else the rest of the data.

    Args:
        records: the data.
        forget_records: what is taken out of it.
        retain: the records to keep, or a file of them, where they are given.
        needed: refuse to keep none.

    Returns:
        The records to keep, without copies of those that go.

    Raises:
        DataError: if none is left though some are needed.
    """
    source = records if retain is None else loaded(retain)
    kept = without_copies(source, forget_records)
    if retain is not None:
        kept = Kept(kept.records, [*kept.notes, *_same_ids(source, forget_records)])
    if not len(kept.records):
        if retain is None and needed:
            raise SelectionError(
                "--forget names every record of --data, so nothing is left to retain; pass other "
                "records with --retain, or use a method that needs none (flat, grad_ascent, "
                "task_vector)"
            )
        if needed:
            raise DataError(
                f"{kept.records.source}: no record is left to retain, and retraining, like most "
                "methods, needs some; flat, grad_ascent and task_vector need none"
            )
    return kept


def _same_ids(retain: Records, forget_records: Records) -> list[str]:
    """Say which given records went for their ids alone, which may mean another record there."""
    known = set(forget_records.ids)
    places = [i for i, name in enumerate(retain.ids) if name in known]
    named = apart(retain.take(places), forget_records)
    if not len(named):
        return []
    return [
        f"{retain.source}: {len(named)} record(s) have the id of a record to forget, first "
        f"{named.ids[0]!r}, and other content: they are left out, too; give them ids of their own "
        "to keep them"
    ]


def check_disjoint(
    holdout: Records | None, forget_records: Records, retain_records: Records
) -> None:
    """Refuse a holdout that shares records with what the model was trained on.

    Args:
        holdout: if there is one.
        forget_records: what is taken out.
        retain_records: what is kept.

    Raises:
        DataError: naming the first record that is in both.
    """
    if holdout is None:
        return
    refuse_shared(
        holdout,
        forget_records,
        retain_records,
        where=f"--holdout {holdout.source}",
        what="record(s) are also in the forget or retain data",
        advice="a holdout must be unseen",
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
        OptionError: if `count` is odd, or `seed` below 0.
    """
    if count % 2:
        raise OptionError(f"half-splits come in pairs: --count {count} is odd")
    if seed < 0:
        raise OptionError(f"--seed {seed}: a seed is 0 or more")
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
        # of a million records the contents themselves would be most of what is held
        content = hashlib.blake2b(record.canonical.encode(), digest_size=16).digest()
        keys: list[Hashable] = [content]
        if record.subject is not None:
            keys.append(record.subject)
        for key in keys:
            parent[root(i)] = root(first.setdefault(key, i))
    units: dict[int, list[int]] = {}
    for i in range(len(records)):
        units.setdefault(root(i), []).append(i)
    return list(units.values())
