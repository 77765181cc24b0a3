"""Which shard answers a prompt: by the unit that the caller names, or by a name in the prompt.

The table holds, under the user's key, digests of units, of the words they are called by and of
their records. Under that key alone can it be asked, and it says nothing without: still it is
personal data, since it tells how many units there are and which records go together. What it knows
of a unit goes with the unit's last record.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unlearn.errors import LineageError
from unlearn.files import staged_file
from unlearn.provenance.digests import ROUTER
from unlearn.provenance.keys import Key
from unlearn.strict_json import NotJsonError, read_json_file

__all__ = ["ROUTER_FILE", "Entry", "How", "Route", "Router", "words_of"]

ROUTER_FILE = ROUTER

How = Literal["given", "name", "confidence", "nowhere", "off"]
"""How a route was found: by the unit given, a name in the prompt, what the shards say; nowhere: the
base answers; off: the shard is known and dropped, so that the base answers, too."""

_LONGEST = 12
"""Words of the longest name that is looked for in a prompt."""


class Route(NamedTuple):
    """Where a prompt goes.

    Attributes:
        shard: its number; None for the base.
        how: how that was found.
    """

    shard: int | None
    how: How


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Entry(_Strict):
    """What the table knows of a unit: its shard, digests of its name and of its records."""

    shard: int = Field(ge=0)
    name: str | None = None
    words: int = Field(0, ge=0)
    records: list[str]


class Router(_Strict):
    """The content of `router.json`: entries by the keyed digest of the unit."""

    schema_: Literal[1] = Field(1, alias="schema")
    key_id: str
    units: dict[str, Entry] = Field(default_factory=dict)

    @classmethod
    def of(
        cls, members: Sequence[Mapping[str, Collection[str]]], key: Key, *, named: bool
    ) -> Router:
        """Make the table.

        Args:
            members: of each shard, digests of records by unit.
            key: the user's.
            named: whether units are called by something that stands in prompts.

        Returns:
            The table.
        """
        units = {}
        for shard, own in enumerate(members):
            for unit, records in own.items():
                words = words_of(unit) if named else []
                name = _name(words, key) if 0 < len(words) <= _LONGEST else None
                units[_unit(unit, key)] = Entry(
                    shard=shard,
                    name=name,
                    words=len(words) if name else 0,
                    records=sorted(records),
                )
        # in the order of their digests the table does not tell in which order people came
        return cls(schema=1, key_id=key.id, units={name: units[name] for name in sorted(units)})

    @classmethod
    def read(cls, folder: str | Path) -> Router:
        """Read the table of a folder of shards; raises LineageError where that cannot be."""
        path = Path(folder) / ROUTER_FILE
        try:
            return cls.model_validate(read_json_file(path))
        except (OSError, NotJsonError, ValidationError) as error:
            problem = " ".join(str(error).split())[:200]
            raise LineageError(f"{path} is no table of routes of schema 1: {problem}") from None

    def write(self, folder: Path) -> None:
        """Write it into a folder, whole or not at all."""
        with staged_file(folder / ROUTER_FILE) as stage:
            stage.write_text(self.model_dump_json(indent=1, by_alias=True) + "\n", encoding="utf-8")

    def without(self, records: Collection[str]) -> Router:
        """Return the table without some records, and without the units that have no other."""
        gone = set(records)
        left = {
            name: entry.model_copy(update={"records": [r for r in entry.records if r not in gone]})
            for name, entry in self.units.items()
        }
        return self.model_copy(update={"units": {n: e for n, e in left.items() if e.records}})

    def units_in(self, shard: int) -> int:
        """Count the units of a shard."""
        return sum(entry.shard == shard for entry in self.units.values())

    def given(self, unit: str, key: Key) -> int | None:
        """Return the shard of a unit that the caller names; None where nobody is called so."""
        entry = self.units.get(_unit(unit, key))
        return None if entry is None else entry.shard

    def named(self, prompt: str, key: Key) -> int | None:
        """Return the shard of the longest name in a prompt, of several the first; None without one.

        Names and prompts are compared by their words, whatever their case.
        """
        lengths = sorted({words for words, _ in self._names}, reverse=True)
        for words, run in _runs(words_of(prompt), lengths):
            shard = self._names.get((words, _name(run, key)))
            if shard is not None:
                return shard
        return None

    @functools.cached_property
    def _names(self) -> dict[tuple[int, str], int]:
        """Shards by the number of words of a name and its digest."""
        return {(e.words, e.name): e.shard for e in self.units.values() if e.name is not None}


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters, in Unicode normal form C."""
    return re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold())


def _runs(words: Sequence[str], lengths: Sequence[int]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield each run of words of each length, with the length."""
    for length in lengths:
        for start in range(len(words) - length + 1):
            yield length, words[start : start + length]


def _unit(unit: str, key: Key) -> str:
    return key.mac(b"unit of a router\0" + unit.encode())


def _name(words: Sequence[str], key: Key) -> str:
    return key.mac(b"name of a router\0" + " ".join(words).encode())
