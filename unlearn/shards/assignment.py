"""Which shard a record belongs to, in what order a shard trains, and from what seed.

All three follow from the user's key, the record and what its unit is called, and never from who
else is there: so a shard that is trained without a person is bit by bit the shard that would have
been, had that person never been there (SISA, 1912.03817, section IV, deals records out evenly
instead, which tells of the others).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn.data.readers import read_rows
from unlearn.data.records import Records
from unlearn.errors import DataError, OptionError, did_you_mean
from unlearn.provenance.keys import Key

__all__ = ["BY_RECORD", "BY_SUBJECT", "Assigned", "assigned", "shard_of", "shard_seed", "units_of"]

BY_SUBJECT, BY_RECORD = "subject", "record"

_SEEDS = 1 << 31
"""Seeds are below this: NumPy takes 32 bits, and stages of a training add to theirs."""

_SHOWN = 5


def shard_of(unit: str, shards: int, key: Key) -> int:
    """Return the shard of a unit, from 0: HMAC-SHA256(key, unit) as a number, modulo K.

    Args:
        unit: what it is called.
        shards: K, how many there are.
        key: the user's.

    Returns:
        Its number.
    """
    return int(key.mac(b"shard of\0" + unit.encode()), 16) % shards


def shard_seed(seed: int, shard: int, key: Key) -> int:
    """Return the seed of a shard, under the key, so that no two shards begin alike.

    Args:
        seed: that the user chose.
        shard: its number.
        key: the user's.

    Returns:
        A number below 2³¹.
    """
    return int(key.mac(f"seed of a shard\0{seed}\0{shard}".encode()), 16) % _SEEDS


def units_of(
    source: str | Path | Records, records: Records, by: str, key: Key, flag: str = "--shard-by"
) -> list[str]:
    """Return the unit of each record: what is deleted together, and so lies in one shard.

    Args:
        source: where the records come from; for a field, the file.
        records: the records of it.
        by: `subject`, `record` (each by itself, by its content), or the name of a field of the
            file, such as that of a tenant.
        key: under which contents are named.
        flag: that named the unit, for messages.

    Returns:
        A name for each.

    Raises:
        DataError: if a record has no such unit.
        OptionError: if fields are not at hand.
    """
    if by == BY_RECORD:
        return [key.digest(record) for record in records]
    found: Sequence[Any] = records.subjects if by == BY_SUBJECT else _column(source, by, flag)
    lacking = [name for name, unit in zip(records.ids, found, strict=True) if unit in (None, "")]
    if lacking:
        names = ", ".join(map(repr, lacking[:_SHOWN])) + (", …" if len(lacking) > _SHOWN else "")
        raise DataError(
            f"{records.source}: {len(lacking)} record(s) have no {by}, so nobody could say whose "
            f"they are: {names}; give them one, or pass another {flag}"
        )
    return list(map(str, found))


def _column(source: str | Path | Records, name: str, flag: str) -> list[Any]:
    """Return a field of all rows of a file."""
    if isinstance(source, Records):
        raise OptionError(
            f"{flag} {name}: records in memory have no fields but their own: name the file, or "
            "set the subject of each record"
        )
    rows = [row for _, row in read_rows(source)]
    known = {key for row in rows for key in row}
    if name not in known:
        raise OptionError(
            f"{flag} {name}: {source} has no such field{did_you_mean(name, known)}; "
            f"{BY_SUBJECT}, {BY_RECORD} or a field of its rows"
        )
    values = [row.get(name) for row in rows]
    odd = next((v for v in values if isinstance(v, dict | list)), None)
    if odd is not None:
        raise DataError(f"{source}: the field {name} holds lists or objects, which name no unit")
    return values


@dataclass(frozen=True)
class Assigned:
    """Records dealt out to shards.

    Attributes:
        positions: of each shard's records, in the order in which it trains on them: that of their
            keyed digests, each content once.
        digests: of all records, by position.
        units: of all records, by position.
        repeated: how many records were left out since their shard has their content already.
    """

    positions: tuple[tuple[int, ...], ...]
    digests: tuple[str, ...]
    units: tuple[str, ...]
    repeated: int = 0
    _of: Mapping[str, int] = field(default_factory=dict, repr=False)

    def members(self, shard: int) -> dict[str, list[str]]:
        """Return the digests of a shard's records by unit."""
        found: dict[str, list[str]] = {}
        for unit, digest in zip(self.units, self.digests, strict=True):
            if self._of[unit] == shard and digest not in found.setdefault(unit, []):
                found[unit].append(digest)
        return found


def assigned(records: Records, units: Sequence[str], shards: int, key: Key) -> Assigned:
    """Deal records out.

    Args:
        records: the records.
        units: of each.
        shards: how many.
        key: the user's.

    Returns:
        Who goes where.
    """
    digests = tuple(map(key.digest, records))
    of = {unit: shard_of(unit, shards, key) for unit in dict.fromkeys(units)}
    places: list[dict[str, int]] = [{} for _ in range(shards)]
    for position, (unit, digest) in enumerate(zip(units, digests, strict=True)):
        places[of[unit]].setdefault(digest, position)
    ordered = tuple(tuple(place[digest] for digest in sorted(place)) for place in places)
    return Assigned(ordered, digests, tuple(units), len(records) - sum(map(len, ordered)), of)
