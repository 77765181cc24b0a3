"""The lineage of a folder of shards as a whole, put together from those of its shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn.provenance.digests import weights_digest
from unlearn.provenance.lineage import Lineage, RecordDigests, library_versions, now
from unlearn.shards.files import Shards, shard_name

__all__ = ["METHOD", "write_whole_lineage"]

METHOD = "shards"
"""What a lineage of a whole folder says for the method."""


def write_whole_lineage(folder: Path, shards: Shards, verb: str, **facts: Any) -> Lineage:
    """Write the lineage of a folder of shards, whose `shards.json` is there already.

    It says of all shards together what each says of itself: what was trained on, what was taken
    out, by what options. What was taken out of shards that are off is not among the trained ones:
    nothing of these is left. There is no parent, as exact retraining has none.

    Args:
        folder: the folder.
        shards: what its `shards.json` says.
        verb: `finetune` or `forget`.
        **facts: `options`, `cost` and `budget`, where there are any.

    Returns:
        The lineage.
    """
    lines = _lines(folder, shards)
    trained = {digest for line in lines.values() for digest in line.records.trained}
    forgotten = {*shards.forgotten, *(d for one in shards.shards for d in one.pending)}
    options = {"shards": len(shards.shards), "by": shards.by, **(facts.get("options") or {})}
    line = Lineage(
        schema=1,
        created=now(),
        verb=verb,
        base=shards.base,
        digest=weights_digest(folder),
        kind="adapter",
        records=RecordDigests(
            key_id=shards.key_id, trained=sorted(trained), forgotten=sorted(forgotten)
        ),
        template=shards.template,
        method=METHOD,
        options=options,
        seed=shards.seed,
        finetuned_with=shards.made_with,
        cost=facts.get("cost") or {},
        versions=library_versions(),
        budget=facts.get("budget") or {},
        environment=_environment(lines),
    )
    line.write(folder)
    return line


def _lines(folder: Path, shards: Shards) -> dict[int, Lineage]:
    """Return the lineages of the shards that are on."""
    found = {}
    for number, shard in enumerate(shards.shards):
        line = Lineage.read(folder / shard_name(number)) if shard.state == "on" else None
        if line is not None:
            found[number] = line
    return found


def _environment(lines: Mapping[int, Lineage]) -> dict[str, Any]:
    """Return what rounded the sums of all shards; nothing where they differ."""
    all_of = [line.environment for line in lines.values()]
    return all_of[0] if all_of and all(each == all_of[0] for each in all_of) else {}
