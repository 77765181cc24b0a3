"""The steps of a row whose adapter is made of shards: with its own original, and replayed.

It is not measured beside the references of the other rows, which are trained as one adapter is.
What it has instead is a replay: the touched shards are trained again in fresh processes, and must
come out bit by bit. What it knows is asked under the shard that the key deals each record to,
whether or not the record was ever learned, so that members and others are asked alike.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from unlearn.apps.compare.shards import ROW
from unlearn.data.records import Records
from unlearn.runs.fields import Watcher
from unlearn.runs.sharded_finetuning import finetune_shards
from unlearn.runs.sharded_forgetting import forget_shards
from unlearn.shards.assignment import BY_RECORD, shard_of
from unlearn.shards.files import Shards
from unlearn.shards.serving import Scored, ShardedModel

__all__ = ["Making", "forget_in", "make", "measure"]


@dataclass(frozen=True)
class Making:
    """How shards are trained.

    Attributes:
        model: the base.
        template: how records are written.
        opening: how the base is opened.
        progress: told how far training has come.
    """

    model: str
    template: str | None
    opening: Mapping[str, Any]
    progress: Watcher = False


def make(
    how: Making, records: Records, folder: Path, row: Mapping[str, Any], **training: Any
) -> dict[str, Any]:
    """Train the shards that know all records.

    Args:
        how: they are trained.
        records: to learn.
        folder: where they go.
        row: its options.
        **training: `lora`, `options` and `seed`, as for one adapter.

    Returns:
        What a comparison tells of it.
    """
    chosen = {**ROW.extra, **row}
    made = finetune_shards(
        how.model, records, folder, shards=chosen["shards"], shard_by=chosen["by"], overwrite=True,
        template=how.template, progress=how.progress, **training, **how.opening,
    )  # fmt: skip
    costs = [shard.whole for shard in made.shards.shards]
    return _told(
        sum(c.seconds for c in costs), sum(c.tokens for c in costs), made.shards, made.notes
    )


def forget_in(
    how: Making,
    records: Records,
    forget: str,
    folders: tuple[Path, Path],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Take records out of shards.

    Args:
        how: they are trained.
        records: that they know.
        forget: which are to go.
        folders: that of the shards, and that of the new ones.
        options: of the row.

    Returns:
        What a comparison tells of it.
    """
    chosen = {**ROW.extra, **options}
    old = Shards.read(folders[0])
    made = forget_shards(
        how.model, records, forget, folders[1], adapter=folders[0], overwrite=True,
        options={name: chosen[name] for name in ("budget", "quality")},
        progress=how.progress, **how.opening,
    )  # fmt: skip
    whole = sum(shard.whole.tokens for shard in old.shards)
    notes = [
        *made.deletion.lines(),
        f"its own original of {len(old.shards)} shards: {whole:,} tokens",
    ]
    return {
        **_told(made.deletion.seconds, made.deletion.tokens, made.shards, [*notes, *made.notes]),
        "options": chosen,
    }


def _told(seconds: float, tokens: int, shards: Shards, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "tokens": tokens,
        "notes": list(notes),
        "weights": shards.digest,
        "curve": [],
    }


def measure(
    how: Making, folders: tuple[Path, Path], kept: Records, forgotten: Records, unseen: Records
) -> dict[str, Any]:
    """Ask shards before and after, and train the touched ones again.

    Args:
        how: the base is opened.
        folders: of the shards before and after.
        kept: records to keep.
        forgotten: those that went.
        unseen: records that were never learned.

    Returns:
        `numbers` by the names of a comparison's measures, and the `ruling` of the replay.
    """
    from unlearn_eval.statistics.auc import auc

    splits = {"retain": kept, "forget": forgotten, "holdout": unseen}
    before, after = (_asked(how, folder, splits) for folder in folders)
    numbers = {
        "forget_recall": _recall(after["forget"]),
        "forget_loss": _loss(after["forget"]),
        "retain_recall": _recall(after["retain"]),
        "retain_loss": _loss(after["retain"]),
        "holdout_loss": _loss(after["holdout"]),
        "rise": _loss(after["retain"]) - _loss(before["retain"]),
        "auc": auc([-s.loss for s in after["forget"]], [-s.loss for s in after["holdout"]]),
    }
    return {"numbers": numbers, "ruling": _replayed(how, folders[1], kept, forgotten)}


def _asked(how: Making, folder: Path, splits: Mapping[str, Records]) -> dict[str, list[Scored]]:
    """Score records under the shards that the key deals them to, learned or not."""
    model = ShardedModel.load(how.model, folder, **how.opening)
    served, found = set(model.served), {}
    for name, records in splits.items():
        units = [
            model.key.digest(r) if model.shards.by == BY_RECORD else r.subject for r in records
        ]
        own = [
            None if u is None else shard_of(u, len(model.shards.shards), model.key) for u in units
        ]
        shards = [shard if shard in served else None for shard in own]
        found[name] = model.score(model.encoded(list(records)), shards)
    return found


def _loss(scored: Sequence[Scored]) -> float:
    return fmean(each.loss for each in scored)


def _recall(scored: Sequence[Scored]) -> float:
    return fmean(each.recalled for each in scored)


def _replayed(how: Making, folder: Path, kept: Records, forgotten: Records) -> dict[str, Any]:
    """Train the touched shards again, on a copy of the records that goes afterwards."""
    from unlearn_eval.replay.sharded import replay_shards

    with tempfile.TemporaryDirectory(prefix="unlearn-compare-") as scratch:
        file = Path(scratch) / "kept.jsonl"
        rows = [{k: v for k, v in asdict(record).items() if v} for record in kept]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        found = replay_shards(
            folder, file, model=how.model, forgotten=forgotten, quiet=True, **how.opening
        )
    return {"outcome": found.outcome, "tier": "E", "reasons": [found.words], "would_decide": []}
