"""Take records out of a folder of shards: only those that hold them are trained again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from unlearn.canaries.pairs import joined
from unlearn.config import called_with
from unlearn.data.records import Records
from unlearn.data.splits import loaded
from unlearn.data.templates import choose_template
from unlearn.errors import ModelError, OptionError
from unlearn.files import check_output, staged_folder
from unlearn.model.folders import resolve_folder, stacked
from unlearn.processes import world_size
from unlearn.provenance.lineage import (
    FILE_NAME,
    Base,
    Lineage,
    RecordDigests,
    library_versions,
    now,
)
from unlearn.provenance.suppression import check_suppressed, suppress
from unlearn.runs.forgetting import run_forget
from unlearn.runs.options import DEFAULT_METHOD, SHARDS, ForgetOptions, ForgetShardsOptions
from unlearn.runs.progress import shown
from unlearn.runs.reference_training import Reference, ReferenceTrainer
from unlearn.runs.saving import encode_records
from unlearn.runs.sharded_old import OldShards
from unlearn.runs.sharded_report import REPORT_FILE, Deletion, Look, look_at
from unlearn.runs.signature import differences
from unlearn.runs.workers import with_threads
from unlearn.shards.files import Shard, Shards, is_sharded, shard_name
from unlearn.shards.router import Router
from unlearn.training.options import LoraOptions, TrainingOptions

__all__ = [
    "ForgottenShards",
    "forget_shards",
    "run_forget_shards",
]

_OWN = ("budget", "quality")
_ADAPTER_CONFIG = "adapter_config.json"


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
    run = _Run(options, old, data, gone)
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
    if options.suppress:
        path = suppress(asked, f"taken out by {SHARDS}", old.key)
        run.notes.append(f"{len(asked)} record(s) are on the suppression list {path}")
    return ForgottenShards(target, shards, deletion, tuple(dict.fromkeys(run.notes)))


forget_shards = called_with(ForgetShardsOptions, run_forget_shards, "forget_shards")


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
    for name in ("recipe", "start", "canaries", "with_canaries", "report_to", "template", "plan"):
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
    if options.off_now or not _whole(options):
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


def _whole(options: ForgetShardsOptions) -> bool:
    """Say whether shards are trained by the whole recipe."""
    named = options.method == DEFAULT_METHOD
    return options.options.get("budget", 1.0 if named else "auto") in {1, "1", "1.0"}


@dataclass
class _Run:
    """What is done to each shard, and what it took.

    Attributes:
        options: of the run.
        old: the folder before.
        data: all records that are at hand.
        gone: digests of those to take out.
        tokens: that training went through so far.
        seconds: that it took.
        notes: what the user should know.
    """

    options: ForgetShardsOptions
    old: OldShards
    data: Records
    gone: set[str]
    tokens: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Find each content of the data once."""
        self._places: dict[str, int] = {}
        for position, record in enumerate(self.data):
            self._places.setdefault(self.old.key.digest(record), position)

    def copied(self, number: int, stage: Path) -> Shard:
        """Copy a shard that holds none of the records."""
        there = self.old.folder / shard_name(number)
        if there.is_dir():
            shutil.copytree(there, stage / shard_name(number))
        return self.old.shards.shards[number]

    def kept(self, number: int) -> Records:
        """Return the records that a shard keeps and that are at hand, in its order."""
        left = self.old.left(number, self.gone)
        if lost := sum(digest not in self._places for digest in left):
            self.notes.append(
                f"{shard_name(number)}: {lost} record(s) that it was trained on are not in the "
                "data any more: it is trained without them"
            )
        return self.data.ordered([self._places[d] for d in left if d in self._places])

    def shard(self, number: int, folder: Path) -> Shard:
        """Train a shard again on what it keeps, or drop it; return what it is then."""
        before = self.old.shards.shards[number]
        kept = self.kept(number)
        facts: dict[str, Any] = {
            "before": before.digest or before.before,
            "digest": None,
            "pending": [],
        }
        if not len(kept):
            facts |= {"state": "empty", "records": 0, "units": 0}
            self.notes.append(f"{shard_name(number)} has no record left")
            return before.model_copy(update=facts)
        facts |= {"records": len(kept), "units": self._router.units_in(number)}
        if self.options.off_now:
            _keep_settings(self.old.folder / shard_name(number), folder)
            pending = sorted({*before.pending, *(self.gone & self.old.trained(number))})
            return before.model_copy(update={**facts, "state": "off", "pending": pending})
        line = self.old.lines[number]
        assert line is not None
        with with_threads(line.environment.get("threads")):
            made = self._again(number, kept, folder, line)
        self.tokens += int(made.cost["tokens"])
        self.seconds += float(made.cost["seconds"])
        self._check_environment(number, line, made)
        return before.model_copy(update={**facts, "state": "on", "digest": made.digest})

    @property
    def _router(self) -> Router:
        return self.old.router.without(self.gone)

    def _again(self, number: int, kept: Records, folder: Path, line: Lineage) -> Lineage:
        """Train a shard again: from its lineage alone where its weights are gone."""
        if self.old.shards.shards[number].state == "off":
            self.notes.append(f"{shard_name(number)} was off, and was trained by the whole recipe")
            return self._from_nothing(number, kept, folder, line)
        own = self.old.trained(number) & self.gone
        records = joined(kept, [self.data[self._places[digest]] for digest in sorted(own)])
        chosen = {each.name: getattr(self.options, each.name) for each in fields(ForgetOptions)}
        chosen |= {
            "data": records,
            "forget": f"rows:{len(kept)}-{len(records) - 1}",
            "retain": None,
            "adapter": self.old.folder / shard_name(number),
            "method": None if self.options.method == SHARDS else self.options.method,
            "output": folder,
            "seed": self.old.shards.shards[number].seed,
            "suppress": False,
        }
        result = run_forget(ForgetOptions(**chosen))
        self.notes += [f"{shard_name(number)}: {note}" for note in result.notes]
        return result.lineage

    def _from_nothing(self, number: int, kept: Records, folder: Path, line: Lineage) -> Lineage:
        """Train a shard as it was trained at first, on what it keeps."""
        check_suppressed(kept, self.old.key, advice="name them in --forget")
        base = self.options.open(self.options.model)
        if base.base_digest() != line.base.digest:
            raise ModelError(f"{shard_name(number)} was trained on another base than {base.name}")
        template = choose_template(line.template, base.tokenizer, kept)
        training = TrainingOptions(**line.finetuned_with["training"])
        shape = LoraOptions(**line.finetuned_with["lora"]).model_dump()
        trainer = ReferenceTrainer(
            self.options.model,
            self.options.opening,
            shape,
            training,
            encode_records(kept, base, template, training),
            template,
            base,
        )
        digests = [*map(self.old.key.digest, kept)]
        pending = {*self.old.shards.shards[number].pending, *(self.gone & self.old.trained(number))}
        records = RecordDigests(
            key_id=self.old.key.id,
            trained=digests,
            forgotten=sorted({*line.records.forgotten, *pending}),
        ).left_out(pending)
        facts = {
            "verb": "finetune",
            "base": Base(name=base.name, digest=base.base_digest()),
            "template": template.name,
            "finetuned_with": {"training": training.model_dump(), "lora": shape},
            "seed": self.old.shards.shards[number].seed,
            "records": records,
            "made_from": trainer.made_from(range(len(kept)), digests, self.old.key),
        }
        with shown(self.options.progress, "training a shard") as progress:
            tell = progress or (lambda done, planned: None)
            self.notes += trainer(Reference(folder, range(len(kept)), facts), tell)
        made = Lineage.read(folder)
        assert made is not None
        return made

    def _check_environment(self, number: int, line: Lineage, made: Lineage) -> None:
        """Refuse bits that were rounded otherwise, where these are claimed."""
        words = differences(line.environment, made.environment)
        if words and _whole(self.options):
            raise OptionError(
                f"budget=1.0 makes what training without the records makes, bit by bit, and "
                f"{shard_name(number)} was trained elsewhere: {', '.join(words[:3])}; train it "
                "there, or leave the budget to `auto`, which claims no such thing"
            )


def _keep_settings(there: Path, folder: Path) -> None:
    """Copy what it takes to train a shard again, and none of its weights."""
    folder.mkdir(parents=True)
    for name in (FILE_NAME, _ADAPTER_CONFIG):
        shutil.copyfile(there / name, folder / name)


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


def _look(options: ForgetShardsOptions, stage: Path, data: Records, run: _Run) -> Look | None:
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


def _deletion(shards: Shards, run: _Run, records: int, look: Look | None) -> Deletion:
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
