"""Take records out of a folder of shards: only those that hold them are trained again."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.canaries.pairs import joined
from unlearn.config import called_with
from unlearn.data.records import Records
from unlearn.data.splits import loaded
from unlearn.errors import ModelError, OptionError
from unlearn.files import check_output, staged_folder
from unlearn.model.folders import resolve_folder, stacked
from unlearn.processes import world_size
from unlearn.provenance.lineage import library_versions, now
from unlearn.provenance.suppression import suppress
from unlearn.runs.options import DEFAULT_METHOD, SHARDS, ForgetShardsOptions
from unlearn.runs.sharded_lineage import write_whole_lineage
from unlearn.runs.sharded_old import OldShards
from unlearn.runs.sharded_plan import DeletionPlan, plan_of_deletion
from unlearn.runs.sharded_report import REPORT_FILE, Deletion, Look, look_at
from unlearn.runs.sharded_retraining import Retraining, whole_recipe
from unlearn.runs.signature import differences
from unlearn.shards.files import Shard, Shards, is_sharded, shard_name

__all__ = [
    "ForgottenShards",
    "forget_shards",
    "plan_forget_shards",
    "run_forget_shards",
]

_OWN = ("budget", "quality")


@dataclass(frozen=True)
class ForgottenShards:
    """A folder of shards without some records.

    Attributes:
        folder: where it is.
        shards: what `shards.json` says.
        deletion: what it took.
        notes: what the user should know.
    """

    folder: Path
    shards: Shards
    deletion: Deletion
    notes: tuple[str, ...] = ()


def run_forget_shards(options: ForgetShardsOptions) -> ForgottenShards:
    """Take records out of a folder of shards and save a new one.

    By their lineages it is known which shards hold the records, or copies of them. These are
    trained again on what they keep, as `forget` does by default, or by the whole recipe with
    `budget=1.0`: then all shards are bit by bit what `finetune --shards` makes of the data without
    the records. The others are copied, weights and lineage. With `off_now` those that hold records
    are dropped, with all they know, and nothing is trained; the same command without it does that.

    Raises UnlearnError for any input that cannot be used; nothing is written then.
    """
    if options.plan:
        raise OptionError("forget: call unlearn.runs.sharded_forgetting.plan_forget_shards for it")
    _check(options)
    old = OldShards.read(resolve_folder(stacked(options.adapter)[0], "adapter"))
    data = _data(options)
    asked = data.select(options.forget)
    gone = {old.key.digest(record) for record in asked}
    touched = old.touched(gone)
    target = check_output(
        options.output, overwrite=options.overwrite or _resumed(options, old, gone)
    )
    _check_bits(options, old, touched)
    run = Retraining(options, old, data, gone)
    with staged_folder(target, overwrite=True) as stage:
        made = [
            run.shard(number, stage / shard_name(number))
            if number in touched
            else run.copied(number, stage)
            for number in range(len(old.shards.shards))
        ]
        shards = _new_shards(old, made, gone, touched)
        old.router.without(gone).write(stage)
        shards.write(stage)
        deletion = _deletion(shards, run, len(asked), _look(options, stage, data, run))
        text = json.dumps(deletion.as_dict(), indent=1, allow_nan=False)
        (stage / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
        write_whole_lineage(stage, shards, "forget", **_facts(options, deletion))
    if options.suppress:
        path = suppress(asked, f"taken out by {SHARDS}", old.key)
        run.notes.append(f"{len(asked)} record(s) are on the suppression list {path}")
    return ForgottenShards(target, shards, deletion, tuple(dict.fromkeys(run.notes)))


forget_shards = called_with(ForgetShardsOptions, run_forget_shards, "forget_shards")


def plan_forget_shards(options: ForgetShardsOptions) -> DeletionPlan:
    """Say what a deletion from a folder of shards will take; change nothing.

    Args:
        options: of the run.

    Returns:
        The plan, by the whole recipe: a budget may do with less.
    """
    _check(options)
    old = OldShards.read(resolve_folder(stacked(options.adapter)[0], "adapter"))
    asked = _data(options).select(options.forget)
    return plan_of_deletion(old, {old.key.digest(record) for record in asked})


def _check(options: ForgetShardsOptions) -> None:
    """Refuse what a folder of shards does not take."""
    adapters = stacked(options.adapter)
    if len(adapters) != 1 or not is_sharded(adapters[0]):
        raise ModelError(
            f"--method {SHARDS}: {', '.join(map(str, adapters)) or 'a full fine-tune'} is no "
            "folder of shards; `unlearn finetune --shards` makes one"
        )
    if world_size() > 1:
        raise OptionError("shards train in one process: start the command without a launcher")
    if options.method not in {None, SHARDS, DEFAULT_METHOD}:
        raise OptionError(
            f"--method {options.method}: shards are trained again, which is exact; what "
            "approximates a deletion is for one adapter"
        )
    for name in ("recipe", "start", "canaries", "with_canaries", "report_to", "template"):
        if getattr(options, name):
            raise OptionError(f"--{name.replace('_', '-')} is for one adapter, not for shards")
    if any(value is not None for value in options.was.values()):
        raise OptionError("how shards were trained stands in their lineages: leave --…-was out")
    if other := [name for name in options.options if name not in _OWN]:
        raise OptionError(
            f"-o {other[0]}: all shards are of one making, and this would train some otherwise; "
            f"only {' and '.join(_OWN)} can be chosen, or train all anew with `unlearn finetune`"
        )


def _data(options: ForgetShardsOptions) -> Records:
    """Return the data, followed by the records to keep that lie elsewhere."""
    data = loaded(options.data)
    if options.retain is None:
        return data
    known = {name for record in data for name in (record.id, record.canonical)}
    more = [r for r in loaded(options.retain) if not {r.id, r.canonical} & known]
    return joined(data, more)


def _resumed(options: ForgetShardsOptions, old: OldShards, gone: set[str]) -> bool:
    """Say whether the output is what this very command made with `off_now`."""
    place = Path(options.output)
    if options.off_now or not is_sharded(place):
        return False
    there = Shards.read(place)
    touched = old.touched(gone)
    return (
        there.key_id == old.shards.key_id
        and len(there.shards) == len(old.shards.shards)
        and set(there.forgotten) == {*old.shards.forgotten, *gone}
        and all(
            one.state in {"off", "empty"} if i in touched else one.digest == other.digest
            for i, (one, other) in enumerate(zip(there.shards, old.shards.shards, strict=True))
        )
    )


def _check_bits(options: ForgetShardsOptions, old: OldShards, touched: Sequence[int]) -> None:
    """Refuse the whole recipe where it would not give the bits that it stands for."""
    if options.off_now or not whole_recipe(options):
        return
    here = library_versions()
    for number in touched:
        line = old.lines[number]
        if line is not None and (words := differences(line.versions, here)):
            raise OptionError(
                f"budget=1.0 makes what training without the records makes, bit by bit, and "
                f"{shard_name(number)} was made with other versions: {', '.join(words[:3])}; "
                "install these, or leave the budget to `auto`, which claims no such thing"
            )


def _new_shards(
    old: OldShards, made: Sequence[Shard], gone: Collection[str], touched: Sequence[int]
) -> Shards:
    """Return what the new `shards.json` says."""
    content = dict(old.shards)
    content |= {
        "schema": 1,
        "created": now(),
        "shards": list(made),
        "forgotten": sorted({*old.shards.forgotten, *gone}),
        "touched": list(touched),
        "digest": Shards.of(made),
    }
    content.pop("schema_")
    return Shards(**content)


def _look(options: ForgetShardsOptions, stage: Path, data: Records, run: Retraining) -> Look | None:
    """Look at what is left of some kept records."""
    if options.off_now:
        return None
    shards = Shards.read(stage)
    members = {
        digest: number
        for number, shard in enumerate(shards.shards)
        if shard.state == "on"
        for digest in run.old.left(number, run.gone)
    }
    kept = [(record, members[d]) for record in data if (d := run.old.key.digest(record)) in members]
    return look_at(options.model, stage, kept, options.opening)


def _deletion(shards: Shards, run: Retraining, records: int, look: Look | None) -> Deletion:
    """Put together what a deletion took."""
    rows = list(enumerate(shards.shards))
    parts = [(shard.whole, shard.records / shard.whole.records) for _, shard in rows]
    kept = max(1, sum(shard.records for _, shard in rows))
    return Deletion(
        shards=len(rows),
        touched=tuple(shards.touched),
        off=tuple(i for i, shard in rows if shard.state == "off"),
        empty=tuple(i for i, shard in rows if shard.state == "empty"),
        records=records,
        tokens=run.tokens,
        seconds=round(run.seconds, 3),
        tokens_of_retraining=round(sum(whole.tokens * part for whole, part in parts)),
        seconds_of_retraining=round(sum(whole.seconds * part for whole, part in parts), 3),
        largest=round(max(shard.records for _, shard in rows) / kept, 4),
        look=look,
    )


def _facts(options: ForgetShardsOptions, deletion: Deletion) -> dict[str, Any]:
    """Return what a lineage says of a deletion beside records and weights."""
    losses = {} if deletion.look is None else {"kept_loss": {"new": deletion.look.loss}}
    return {
        "options": {**options.options, "touched": [*deletion.touched], "off": [*deletion.off]},
        "cost": {"tokens": deletion.tokens, "seconds": deletion.seconds},
        "budget": {"cost": {"of_retraining": round(deletion.share, 4)}, **losses},
    }
