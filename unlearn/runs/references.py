"""Train the references of audits: adapters that never saw some records."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count as counting
from itertools import islice
from pathlib import Path
from typing import Any

from unlearn.config import validated, without_auto
from unlearn.data.records import Records
from unlearn.data.splits import half_splits, refuse_shared
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import Example
from unlearn.errors import (
    ModelError,
    OptionError,
    OutputError,
    SelectionError,
    TrainingError,
)
from unlearn.files import check_output, staged_folder
from unlearn.losses import NLL
from unlearn.methods.job import TrainingPlan, expected_seconds, shape_of
from unlearn.methods.retrain import same_training
from unlearn.model.adapters import check_adapter_folder
from unlearn.model.folders import resolve_folder
from unlearn.model.state import ModelState, new_adapter, open_model
from unlearn.processes import world_size
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import (
    Base,
    Lineage,
    RecordDigests,
    library_versions,
    now,
    weights_digest,
)
from unlearn.provenance.suppression import check_suppressed
from unlearn.runs.saving import Announce, Progress, encode_records
from unlearn.runs.workers import (
    Tell,
    WorkerLostError,
    as_one_of,
    run_in_processes,
    threads_for,
)
from unlearn.training.fitting import Fit, fit, total_steps
from unlearn.training.objective import Objective
from unlearn.training.options import FINETUNE_DEFAULTS, LoraOptions, TrainingOptions, check_wrappers

__all__ = ["KINDS", "SEED", "TrainedReferences", "reference_folders", "train_references"]

KINDS = ("full", "half")

SEED = 1000
"""Seed of the first reference, far from those that adapters under audit usually have: one with
the seed of the audited adapter would share its initial weights and data order."""

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


@dataclass(frozen=True)
class _Reference:
    """A reference as it is asked for.

    Attributes:
        folder: where it goes.
        positions: of the records that it sees.
        facts: what decides its weights, as its lineage has it.
    """

    folder: Path
    positions: Sequence[int]
    facts: Mapping[str, Any]

    def differs(self) -> str | None:
        """Say in what a reference there differs; None where it is the one wanted."""
        line = Lineage.read(self.folder)
        if line is None:
            return "it has no lineage"
        facts: dict[str, tuple[Any, Any]] = {
            "base model": (line.base.digest, self.facts["base"].digest),
            "lineage key": (line.records.key_id, self.facts["records"].key_id),
            "records": (line.records.trained, self.facts["records"].trained),
        }
        facts |= {
            name: (getattr(line, name), self.facts[name])
            for name in ("template", "finetuned_with", "seed")
        }
        for name, (there, wanted) in facts.items():
            if there != wanted:
                return f"it was made with another {name.replace('finetuned_with', 'setting')}"
        if line.digest != weights_digest(self.folder):
            return "its weights are not those that its lineage names"
        return None


@dataclass
class _Trainer:
    """Trains references on one base, in this process or another; a process opens it once.

    Attributes:
        model: the base, a folder or hub name.
        opening: how it is opened.
        config: keyword arguments of `peft.LoraConfig`.
        training: how the adapters are trained.
        examples: the records of all references.
        base: the opened base, if it is.
    """

    model: str | Path
    opening: Mapping[str, Any]
    config: Mapping[str, Any]
    training: TrainingOptions
    examples: Sequence[Example]
    base: ModelState | None = None

    def steps(self, reference: _Reference) -> int:
        """Return how many steps a reference takes."""
        return total_steps(self.training, len(reference.positions))

    def __call__(self, reference: _Reference, tell: Tell) -> None:
        """Train a reference and put it in place."""
        base = self.base or open_model(self.model, **self.opening)
        state = new_adapter(base, dict(self.config), reference.facts["seed"])
        result = fit(
            state,
            Objective(retain=NLL()),
            self.training,
            retain=[self.examples[p] for p in reference.positions],
            seed=reference.facts["seed"],
            progress=tell,
        )
        self._save(state, reference, result)
        self.base = replace(base, model=state.model.unload())

    def _save(self, state: ModelState, reference: _Reference, result: Fit) -> None:
        with staged_folder(reference.folder, overwrite=True) as stage:
            state.save(stage)
            Lineage(
                schema=1,
                created=now(),
                verb="references",
                digest=weights_digest(stage),
                kind="adapter",
                method="finetune",
                options=self.training.model_dump(),
                cost=result.cost(),
                versions=library_versions(),
                **reference.facts,
            ).write(stage)


@dataclass
class _Queue:
    """References that wait for a process.

    Attributes:
        waiting: those that nobody has taken yet.
        planned: steps of all.
        progress: called with (steps done, steps planned) of all.
        done: steps done, by folder.
    """

    waiting: list[_Reference]
    planned: int
    progress: Progress | None
    done: dict[Path, int] = field(default_factory=dict)

    def take(self) -> _Reference | None:
        """Take out the next one."""
        return self.waiting.pop(0) if self.waiting else None

    def advanced(self, task: _Reference, done: int, planned: int) -> None:
        """Tell how far all of them are."""
        self.done[task.folder] = done
        if self.progress:
            self.progress(sum(self.done.values()), self.planned)

    def ended(self, task: _Reference, result: None, error: Exception | None) -> None:
        """End all where one has failed."""
        if isinstance(error, WorkerLostError):
            raise TrainingError(
                f"{task.folder.name}: {error}; start the command again to go on, with fewer "
                "--jobs if memory was short"
            ) from error
        if error is not None:
            raise error


def train_references(
    model: str | Path,
    data: str | Path | Records,
    output: str | Path,
    *,
    forget: str | None = None,
    count: int = 8,
    kind: str = "full",
    like: str | Path | None = None,
    jobs: int = 1,
    template: str | None = None,
    lora: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = SEED,
    overwrite: bool = False,
    announce: Announce | None = None,
    progress: Progress | None = None,
    **opening: Any,
) -> TrainedReferences:
    """Train references into `output/reference-00` …, and keep those that are there already.

    Each equals what `finetune` makes of the same records, settings and seed, to the bit where as
    many threads compute it. With one job that is so; each of several processes has its part of the
    processors, and sums of floating-point numbers may then be rounded otherwise.

    Args:
        model: base model, a folder or hub name.
        data: the records of the original training.
        output: folder of the references.
        forget: records that no reference sees (IDS syntax); for `full`.
        count: how many.
        kind: `full`: on all other records, each with a seed of its own; `half`: each on a random
            half, so that every record is in exactly half of them.
        like: the adapter under audit: its lineage and shape give the settings.
        jobs: processes that train at once, each with a base of its own in memory. A script that
            calls this with more than one needs `if __name__ == "__main__":`.
        template: how records are written as text; by default as for `like`.
        lora: options of the adapters, see `LoraOptions`.
        options: training options, see `TrainingOptions`.
        seed: of the first reference; the next ones count on, past that of `like`.
        overwrite: train those again that were made otherwise.
        announce: told the plan before training starts.
        progress: called with (steps done, steps planned).
        **opening: `dtype`, `device`, `trust_remote_code`, `load_in_4bit` of `open_model`.

    Returns:
        Where they are.

    Raises:
        UnlearnError: for any input that cannot be used; nothing is written then.
    """
    if world_size() > 1:
        raise OptionError("references train in one process: start the command without a launcher")
    _check_choice(kind, forget, count, jobs)
    target = check_output(output, overwrite=True)
    records = data if isinstance(data, Records) else Records.load(data)
    below = resolve_folder(like, "adapter") if like is not None else None
    parent = Lineage.read(below) if below else None
    training, config = _settings(below, parent, lora or {}, options or {})
    seen = _without(records, forget) if kind == "full" else records
    splits = half_splits(seen, count, seed) if kind == "half" else [[*range(len(seen))]] * count
    check_suppressed(seen, Key.load())
    trainer, facts = _prepared(
        model, opening, seen, training, config, template or (parent.template if parent else None)
    )
    if parent and parent.base.digest != facts["base"].digest:
        raise ModelError(
            f"--like {like} was trained on another base ({parent.base.name}) than "
            f"{facts['base'].name}: their weights differ"
        )
    seeds = [s for s in islice(counting(seed), count + 1) if not parent or s != parent.seed]
    references = _references(target, seen, splits, seeds[:count], facts)
    missing = _missing(target, references, overwrite=overwrite)
    notes = _notes(like, count - len(missing), count)
    if announce and missing:
        announce(_plan(trainer, missing, jobs, notes))
    _train(trainer, missing, jobs, progress)
    return TrainedReferences(tuple(one.folder for one in references), count - len(missing), notes)


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


def _check_choice(kind: str, forget: str | None, count: int, jobs: int) -> None:
    if kind not in KINDS:
        raise OptionError(f"--kind {kind!r} is not {' or '.join(KINDS)}")
    if count < 1 or jobs < 1:
        raise OptionError("--count and --jobs must be at least 1")
    if kind == "full" and forget is None:
        raise SelectionError(
            "references leave records out: name them with --forget, or train half-splits for any "
            "request with --kind half"
        )
    if kind == "half" and forget is not None:
        raise SelectionError(
            "--kind half takes no --forget: every record is left out of half of the references"
        )


def _settings(
    like: Path | None,
    parent: Lineage | None,
    lora: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[TrainingOptions, dict[str, Any]]:
    """Return how to train, and the shape of the adapters."""
    given = without_auto(options)
    if like is None:
        training = validated(TrainingOptions, FINETUNE_DEFAULTS | given, "references")
        config = validated(LoraOptions, lora, "lora").model_dump()
    else:
        check_adapter_folder(like)
        training = same_training(parent, given, "references")
        chosen = validated(LoraOptions, lora, "lora").model_dump()
        config = shape_of(like) | {name: chosen[name] for name in lora}
    check_wrappers(given, training, "references", forget=False, retain=True)
    # a reference is kept when it is done: there is nothing between that could be resumed
    return training.model_copy(update={"save_steps": None}), config


def _prepared(
    model: str | Path,
    opening: Mapping[str, Any],
    records: Records,
    training: TrainingOptions,
    config: Mapping[str, Any],
    template: str | None,
) -> tuple[_Trainer, dict[str, Any]]:
    """Open the base and encode the records; return also what all lineages say."""
    base = open_model(model, **opening)
    used = choose_template(template, base.tokenizer, records)
    examples = encode_records(records, base, used, training)
    facts = {
        "base": Base(name=base.name, digest=base.base_digest()),
        "template": used.name,
        "finetuned_with": {"training": training.model_dump(), "lora": config},
    }
    return _Trainer(model, opening, config, training, examples, base), facts


def _references(
    target: Path,
    records: Records,
    splits: Sequence[Sequence[int]],
    seeds: Sequence[int],
    facts: Mapping[str, Any],
) -> list[_Reference]:
    """Return the references asked for: one a split, each with its seed."""
    key = Key.load()
    digests = [key.digest(record) for record in records]
    references = []
    for i, (split, seed) in enumerate(zip(splits, seeds, strict=True)):
        trained = RecordDigests(key_id=key.id, trained=sorted({digests[p] for p in split}))
        own = {**facts, "seed": seed, "records": trained}
        references.append(_Reference(target / f"{_PREFIX}{i:02}", split, own))
    return references


def _without(records: Records, forget: str | None) -> Records:
    """Return the records that references see."""
    forget_records = records.select(forget or "")
    retain_records = records.without(forget_records)
    if not len(retain_records):
        raise SelectionError("--forget names every record of --data: none is left to train on")
    refuse_shared(
        retain_records,
        forget_records,
        where=records.source,
        what="more record(s) have the same content as records to forget",
        advice="name them in --forget too",
    )
    return retain_records


def _missing(
    target: Path, references: Sequence[_Reference], *, overwrite: bool
) -> list[_Reference]:
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


def _plan(
    trainer: _Trainer, missing: Sequence[_Reference], jobs: int, notes: tuple[str, ...]
) -> TrainingPlan:
    """Say what is about to be trained."""
    assert trainer.base is not None
    steps = sum(map(trainer.steps, missing))
    with as_one_of(jobs):
        seconds = expected_seconds(trainer.base, trainer.examples, steps, trainer.training)
    beside = min(jobs, len(missing))
    text = f"train {len(missing)} references" + (f", {beside} at once" if beside > 1 else "")
    return TrainingPlan(text, steps, seconds / beside, notes)


def _train(
    trainer: _Trainer, missing: Sequence[_Reference], jobs: int, progress: Progress | None
) -> None:
    """Train the references that are not there, in this process or several."""
    queue = _Queue(list(missing), sum(map(trainer.steps, missing)), progress)
    if jobs > 1 and len(missing) > 1:
        trainer.base = None  # each process opens its own
        device = trainer.opening.get("device")
        run_in_processes(trainer, queue, min(jobs, len(missing)), threads_for(jobs), device)
        return
    with as_one_of(jobs):
        while (reference := queue.take()) is not None:
            trainer(reference, functools.partial(queue.advanced, reference))
