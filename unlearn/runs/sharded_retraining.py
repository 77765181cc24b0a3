"""Train shards again without some records, each by itself, or drop them."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from unlearn.canaries.pairs import joined
from unlearn.data.records import Records
from unlearn.data.templates import choose_template
from unlearn.errors import ModelError, OptionError
from unlearn.provenance.lineage import FILE_NAME, Base, Lineage, RecordDigests
from unlearn.provenance.suppression import check_suppressed
from unlearn.runs.forgetting import run_forget
from unlearn.runs.options import DEFAULT_METHOD, SHARDS, ForgetOptions, ForgetShardsOptions
from unlearn.runs.progress import shown
from unlearn.runs.reference_training import Reference, ReferenceTrainer
from unlearn.runs.saving import encode_records
from unlearn.runs.sharded_old import OldShards
from unlearn.runs.signature import differences
from unlearn.runs.workers import with_threads
from unlearn.shards.files import Shard, shard_name
from unlearn.shards.router import Router
from unlearn.training.options import LoraOptions, TrainingOptions

__all__ = ["Retraining", "whole_recipe"]

_ADAPTER_CONFIG = "adapter_config.json"


def whole_recipe(options: ForgetShardsOptions) -> bool:
    """Say whether shards are trained by the whole recipe, rather than a part that suffices."""
    named = options.method == DEFAULT_METHOD
    return options.options.get("budget", 1.0 if named else "auto") in {1, "1", "1.0"}


@dataclass
class Retraining:
    """What is done to each shard of a folder, and what it took.

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

    def _kept(self, number: int) -> tuple[Records, set[str]]:
        """Return the records that a shard keeps, in its order, and digests of those not at hand."""
        left = self.old.left(number, self.gone)
        lost = {digest for digest in left if digest not in self._places}
        if lost:
            self.notes.append(
                f"{shard_name(number)}: {len(lost)} record(s) that it was trained on are not in "
                "the data any more: it is trained without them"
            )
        return self.data.ordered([self._places[d] for d in left if d not in lost]), lost

    def shard(self, number: int, folder: Path) -> Shard:
        """Train a shard again on what it keeps, or drop it; return what it is then."""
        before = self.old.shards.shards[number]
        kept, lost = self._kept(number)
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
            made = _without(self._again(number, kept, folder, line), lost, folder)
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
        if words and whole_recipe(self.options):
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


def _without(line: Lineage, lost: Collection[str], folder: Path) -> Lineage:
    """Note in a lineage that records were left out because they were not at hand any more.

    A later request for them finds no shard to train again; its replay needs to know of this one.
    """
    if not lost:
        return line
    records = line.records.model_copy(
        update={"forgotten": sorted({*line.records.forgotten, *lost})}
    )
    noted = line.model_copy(update={"records": records})
    noted.write(folder)
    return noted
