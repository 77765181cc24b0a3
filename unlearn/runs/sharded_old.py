"""A folder of shards as it is before a deletion: who holds what, by the lineages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from unlearn.errors import LineageError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import FILE_NAME, Lineage
from unlearn.shards.files import Shards, shard_name
from unlearn.shards.router import Router

__all__ = ["OldShards"]


@dataclass(frozen=True)
class OldShards:
    """The folder before: what its files say, the lineage of each shard, and the key."""

    folder: Path
    shards: Shards
    router: Router
    lines: tuple[Lineage | None, ...]
    key: Key

    @classmethod
    def read(cls, folder: Path) -> OldShards:
        """Read a folder whose shards are those that it names."""
        shards, router, key = Shards.read(folder), Router.read(folder), Key.load()
        if not key.id == shards.key_id == router.key_id:
            raise LineageError(
                f"{folder} was made with the key {shards.key_id}, and the key in use is {key.id}: "
                "which shard holds which record cannot be told; set UNLEARN_KEY to that key, or "
                "UNLEARN_HOME to the folder of its file"
            )
        shards.check(folder)
        lines = tuple(Lineage.read(folder / shard_name(i)) for i in range(len(shards.shards)))
        for number, (line, shard) in enumerate(zip(lines, shards.shards, strict=True)):
            if shard.state != "empty" and line is None:
                raise LineageError(f"{folder / shard_name(number)} has no {FILE_NAME}")
            if line is not None and line.records.key_id != key.id:
                raise LineageError(f"{folder / shard_name(number)} was made with another key")
        return cls(folder, shards, router, lines, key)

    def trained(self, number: int) -> frozenset[str]:
        """Return digests of the records that a shard holds, or would have to be trained without."""
        line = self.lines[number]
        return frozenset(line.records.trained if line else ())

    def left(self, number: int, gone: Collection[str]) -> list[str]:
        """Return digests of the records that a shard keeps, in the order in which it trains."""
        lost = {*gone, *self.shards.shards[number].pending}
        return sorted(self.trained(number) - lost)

    def touched(self, gone: Collection[str]) -> list[int]:
        """Return the shards that hold one of some records, or are off."""
        return [
            number
            for number, shard in enumerate(self.shards.shards)
            if shard.state == "off" or not self.trained(number).isdisjoint(gone)
        ]
