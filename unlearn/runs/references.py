"""Train the references of audits: adapters that never saw some records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count as counting
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from unlearn.config import called_with, validated, without_auto
from unlearn.data.records import Records
from unlearn.data.splits import half_splits, loaded, near_copies, without_copies
from unlearn.data.templates import choose_template
from unlearn.errors import (
    ModelError,
    OptionError,
    OutputError,
    SelectionError,
)
from unlearn.files import check_output
from unlearn.methods.defaults import OriginalTraining, original_training, same_training
from unlearn.methods.retrain import stages_of
from unlearn.model.adapted_base import for_adapters
from unlearn.model.folders import resolve_folder
from unlearn.model.shape import shape_of
from unlearn.processes import if_interrupted, world_size
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import (
    Base,
    Lineage,
    RecordDigests,
    Start,
    weights_digest,
)
from unlearn.provenance.suppression import check_suppressed
from unlearn.runs.fields import Selectors
from unlearn.runs.options import REFERENCE_SEED, ReferencesOptions
from unlearn.runs.progress import shown
from unlearn.runs.ray_cluster import check_engine
from unlearn.runs.reference_training import (
    Reference,
    ReferenceTrainer,
    plan_of,
    train_missing,
)
from unlearn.runs.saving import encode_records
from unlearn.training.options import (
    LoraOptions,
    TrainingOptions,
    check_wrappers,
    finetuning_options,
)
from unlearn.training.stages import StageOptions

__all__ = [
    "KINDS",
    "SEED",
    "Settings",
    "TrainedReferences",
    "reference_folders",
    "run_references",
    "seen_by_references",
    "settings_of",
    "train_references",
]

KINDS = ("full", "half")

SEED = REFERENCE_SEED

_PREFIX = "reference-"


@dataclass(frozen=True)
class TrainedReferences:
    """The references in a folder.

    Attributes:
        folders: where each of them is.
        kept: how many were there already.
        notes: what the user should know.
    """

    folders: tuple[Path, ...]
    kept: int
    notes: tuple[str, ...]


def run_references(options: ReferencesOptions) -> TrainedReferences:
    """Train references into `output/reference-00` …, and keep those that are there already.

    Each equals what `finetune` makes of the same records, settings and seed, to the bit where as
    many threads compute it. With one job that is so; each of several processes has its part of the
    processors, and sums of floating-point numbers may then be rounded otherwise.

    Raises UnlearnError for any input that cannot be used; nothing is written then.
    """
    if options.plan:
        raise OptionError("references: call unlearn.runs.plan.references_plan for a plan")
    if world_size() > 1:
        raise OptionError("references train in one process: start the command without a launcher")
    check_engine(options.engine, options.address)
    _check_choice(options.kind, options.forget)
    target = check_output(options.output, overwrite=True)
    records = loaded(options.data)
    settings = settings_of(options)
    parent, original = settings.parent, settings.original
    seen, excluded, copies = _seen(records, options)
    splits = _splits(options, seen)
    check_suppressed(seen, Key.load())
    trainer, facts = _prepared(options, seen, settings, options.template or settings.template)
    if parent and parent.base.digest != facts["base"].digest:
        raise ModelError(
            f"--like {options.like} was trained on another base ({parent.base.name}) than "
            f"{facts['base'].name}: their weights differ"
        )
    references = _references(target, seen, splits, _seeds(options, parent), (trainer, facts))
    for one in references:
        one.facts["records"].left_out(excluded)
    missing = _missing(target, references, overwrite=options.overwrite)
    there = len(references) - len(missing)
    assert trainer.base is not None
    notes = (*copies, *trainer.base.notes, *original.found, *original.notes)
    notes += _notes(options.like, there, options.count)
    if options.announce and missing:
        options.announce(plan_of(trainer, missing, options.jobs, notes))
    with (
        shown(options.progress, "training references") as progress,
        if_interrupted(lambda: "references that are whole stay, and the same command goes on"),
    ):
        notes += train_missing(
            trainer,
            missing,
            options.jobs,
            progress,
            engine=options.engine,
            address=options.address,
        )
    return TrainedReferences(tuple(one.folder for one in references), there, notes)


train_references = called_with(ReferencesOptions, run_references, "train_references")


def _splits(options: ReferencesOptions, records: Records) -> list[list[int]]:
    """Return the positions of the records that each reference sees."""
    if options.kind == "half":
        return half_splits(records, options.count, options.seed)
    return [[*range(len(records))]] * options.count


def _seeds(options: ReferencesOptions, parent: Lineage | None) -> list[int]:
    """Return a seed for each reference, none of them that of the adapter they are compared with."""
    seeds = (s for s in counting(options.seed) if not parent or s != parent.seed)
    return list(islice(seeds, options.count))


def reference_folders(path: str | Path) -> list[str | Path]:
    """Return the references in a folder that `train_references` made, or the path itself."""
    folder = Path(path).expanduser()
    if not folder.is_dir() or (folder / "adapter_config.json").is_file():
        return [path]
    return [*_present(folder)] or [path]


def _present(folder: Path) -> Iterator[Path]:
    """Yield the references in a folder, in order."""
    yield from sorted(
        path for path in folder.glob(f"{_PREFIX}*") if (path / "adapter_config.json").is_file()
    )


def _check_choice(kind: str, forget: Selectors | None) -> None:
    if kind not in KINDS:
        raise OptionError(f"--kind {kind!r} is not {' or '.join(KINDS)}")
    if kind == "full" and forget is None:
        raise SelectionError(
            "references leave records out: name them with --forget, or train half-splits for any "
            "request with --kind half"
        )
    if kind == "half" and forget is not None:
        raise SelectionError(
            "--kind half takes no --forget: every record is left out of half of the references"
        )


@dataclass(frozen=True)
class Settings:
    """How to train references.

    Attributes:
        training: how they are trained.
        config: their shape, keyword arguments of `peft.LoraConfig`.
        like: the adapter whose shape that is, if one is named.
        changes: what of its shape was asked to be otherwise.
        stages: how that adapter was trained, if it was retrained with a budget.
        parent: its lineage, if it has one.
        original: how it was trained, as far as that is known.
    """

    training: TrainingOptions
    config: Mapping[str, Any]
    like: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[StageOptions, ...] = ()
    parent: Lineage | None = None
    original: OriginalTraining = field(default_factory=OriginalTraining)

    @property
    def template(self) -> str | None:
        """How that adapter's records were written, where its lineage tells."""
        return self.parent.template if self.parent else None

    @property
    def facts(self) -> dict[str, Any]:
        """What lineages say of them."""
        facts = {"training": self.training.model_dump(), "lora": dict(self.config)}
        return facts | ({"stages": [s.model_dump() for s in self.stages]} if self.stages else {})


def settings_of(options: ReferencesOptions) -> Settings:
    """Return how to train, and the shape of the adapters; raises UnlearnError for what is not."""
    like = resolve_folder(options.like, "adapter") if options.like is not None else None
    parent = Lineage.read(like) if like else None
    original = original_training(parent, like, options.was)
    stages: tuple[StageOptions, ...] = ()
    if like is None:
        if said := [name for name, value in options.was.items() if value is not None]:
            raise OptionError(
                f"--{said[0].replace('_', '-')}-was tells of the adapter that --like names: name "
                f"it, or give -o {said[0]}=…"
            )
        training, shape = finetuning_options(options.options, options.lora, "references")
        config: dict[str, Any] = shape.model_dump()
        changes: dict[str, Any] = {}
    else:
        given = without_auto(options.options)
        own = {k: given.pop(k) for k in LoraOptions.model_fields if k in given}
        own |= dict(options.lora)
        shape_there = shape_of(like)
        training = same_training(parent, given, "references", original)
        check_wrappers(given, training, "references", forget=False, retain=True)
        stages = stages_of(parent, given)
        chosen = validated(LoraOptions, own, "lora").model_dump()
        changes = {name: chosen[name] for name in own}
        config = shape_there | changes
    # a reference is kept when it is done: there is nothing between that could be resumed
    training = training.model_copy(update={"save_steps": None})
    return Settings(training, config, like, changes, stages, parent, original)


def _prepared(
    options: ReferencesOptions, records: Records, settings: Settings, template: str | None
) -> tuple[ReferenceTrainer, dict[str, Any]]:
    """Open the base and encode the records; return also what all lineages say."""
    base = options.open(options.model)
    if settings.like is not None:
        base = for_adapters(base, [settings.like])
    used = choose_template(template, base.tokenizer, records)
    examples = encode_records(records, base, used, settings.training)
    trainer = ReferenceTrainer(
        options.model,
        options.opening,
        settings.config,
        settings.training,
        examples,
        used,
        base,
        settings.like,
        settings.changes,
        settings.stages,
        None if options.start is None else resolve_folder(options.start, "adapter"),
    )
    facts: dict[str, Any] = {
        "base": Base(name=base.name, digest=base.base_digest()),
        "template": used.name,
        "finetuned_with": settings.facts,
    }
    if options.start is not None:
        facts["start"] = Start(name=str(trainer.start), digest=weights_digest(options.start))
    return trainer, facts


def _references(
    target: Path,
    records: Records,
    splits: Sequence[Sequence[int]],
    seeds: Sequence[int],
    prepared: tuple[ReferenceTrainer, dict[str, Any]],
) -> list[Reference]:
    """Return the references asked for: one a split, each with its seed."""
    key = Key.load()
    trainer, facts = prepared
    digests = [key.digest(record) for record in records]
    marked = set(records.poisoned)
    references = []
    for i, (split, seed) in enumerate(zip(splits, seeds, strict=True)):
        trained = RecordDigests(key_id=key.id, trained=sorted({digests[p] for p in split}))
        own = {**facts, "seed": seed, "records": trained}
        own["poisoned"] = sum(records.ids[p] in marked for p in split)
        own["made_from"] = trainer.made_from(split, digests, key)
        references.append(Reference(target / f"{_PREFIX}{i:02}", split, own))
    return references


def seen_by_references(records: Records, options: ReferencesOptions) -> Records:
    """Return the records that references see: of half-splits all, else none to forget."""
    _check_choice(options.kind, options.forget)
    return _seen(records, options).records


class _Seen(NamedTuple):
    """The records that references see, digests of those that none may, and notes of copies."""

    records: Records
    excluded: set[str]
    notes: list[str]


def _seen(records: Records, options: ReferencesOptions) -> _Seen:
    """Return the records that references see: of half-splits all, else none to forget."""
    if options.kind == "half":
        return _Seen(records, set(), [])
    forget_records = records.select(options.forget or "")
    kept = without_copies(records, forget_records)
    if not len(kept.records):
        raise SelectionError("--forget names every record of --data: none is left to train on")
    notes = kept.notes + near_copies(forget_records, kept.records)
    return _Seen(kept.records, set(map(Key.load().digest, forget_records)), notes)


def _missing(target: Path, references: Sequence[Reference], *, overwrite: bool) -> list[Reference]:
    """Return the references that are not there yet; refuse a folder that holds others."""
    folders = {one.folder for one in references}
    surplus = [path for path in _present(target) if path not in folders]
    if surplus:
        raise OutputError(
            f"{surplus[0]} is one more than --count {len(references)}: raise --count, or delete it"
        )
    missing = []
    for one in references:
        problem = one.differs() if one.folder.exists() else "it is not there"
        if problem is None:
            continue
        if one.folder.exists() and not overwrite:
            raise OutputError(
                f"{one.folder} is not the reference asked for: {problem}; name another --output, "
                "or pass --overwrite to train it again"
            )
        missing.append(one)
    return missing


def _notes(like: str | Path | None, there: int, count: int) -> tuple[str, ...]:
    """Say what the user should know of the references."""
    notes: tuple[str, ...] = ()
    if like is None:
        notes = (
            "nothing says how the adapter they are compared with was trained: they train as "
            "`unlearn finetune` does with these options; name that adapter with --like",
        )
    if there:
        notes += (f"{there} of {count} are there already and were kept",)
    return notes
