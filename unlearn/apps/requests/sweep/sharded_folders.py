"""Folders of shards in a sweep: each shard is an adapter, and the tables beside know people."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from unlearn.errors import UnlearnError
from unlearn.provenance.digests import ROUTER, SHARDS, weight_files, weights_digest
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import FILE_NAME, Lineage
from unlearn.runs.sharded_report import REPORT_FILE
from unlearn.shards.files import Shards, is_sharded, shard_name
from unlearn.shards.router import Router

__all__ = ["holding", "known_in", "shard_digests", "tables"]


def tables(folder: Path, files: Iterable[Path]) -> tuple[Path, ...]:
    """Return the files of a folder of shards that are about all of them; none of another folder.

    Args:
        folder: which.
        files: in it, links left out.

    Returns:
        Its tables and its lineage.
    """
    own = {SHARDS, ROUTER, FILE_NAME, REPORT_FILE}
    found = tuple(sorted(path for path in files if path.name in own))
    return found if any(path.name == SHARDS for path in found) else ()


def known_in(folder: Path, records: Collection[str], key: Key) -> int | None:
    """Count the records that the tables of a folder of shards know as learned.

    Args:
        folder: of shards.
        records: their digests.
        key: of the digests.

    Returns:
        How many; None where the tables cannot be read, or are under another key.
    """
    known: set[str] = set()
    try:
        line = Lineage.read(folder)
        if (folder / ROUTER).is_file():
            router = Router.read(folder)
            if router.key_id != key.id:
                return None
            known |= {digest for entry in router.units.values() for digest in entry.records}
        if line is not None and line.records.key_id != key.id:
            return None
    except (UnlearnError, OSError, ValueError, RecursionError):
        return None
    known |= set(line.records.trained if line else ())
    return len(known.intersection(records))


def shard_digests(folder: Path) -> frozenset[str]:
    """Return the digests of all shards of a folder that have weights; none of another folder."""
    if not is_sharded(folder):
        return frozenset()
    places = sorted({path.parent for path in weight_files(folder).values()} - {folder})
    return frozenset(map(weights_digest, places))


def holding(folder: Path, records: Collection[str], key: Key) -> frozenset[str]:
    """Return the digests of the shards of a folder that by their lineages learned records.

    Args:
        folder: of shards, or any other.
        records: digests of the records.
        key: of the digests.

    Returns:
        Digests of weights; none where the folder is gone, or holds no shards.
    """
    if not is_sharded(folder):
        return frozenset()
    found = set()
    try:
        for number, shard in enumerate(Shards.read(folder).shards):
            line = Lineage.read(folder / shard_name(number)) if shard.digest else None
            if line is not None and line.records.key_id == key.id and shard.digest:
                found |= (
                    {shard.digest} if set(line.records.trained).intersection(records) else set()
                )
    except UnlearnError:
        pass
    return frozenset(found)
