"""Train the references of audits: adapters that never saw some records, many at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count as counting
from itertools import islice
from pathlib import Path
from typing import Any

from unlearn.config import validated, without_auto
from unlearn.data.records import Records
from unlearn.data.splits import half_splits
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import DataError, ModelError, OptionError, OutputError, SelectionError
from unlearn.files import check_output, staged_folder
from unlearn.methods.job import Plan, expected_seconds, shape_of
from unlearn.methods.retrain import same_training
from unlearn.model.adapters import check_adapter_folder
from unlearn.model.folders import resolve_folder
from unlearn.model.state import ModelState, open_model
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
from unlearn.training.fitting import total_steps
from unlearn.training.options import (
    FINETUNE_DEFAULTS,
    LoraOptions,
    TrainingOptions,
    check_wrappers,
)
from unlearn.training.stacked import check_stackable, fit_stacked, save_stacked, stack_adapters

__all__ = ["AT_ONCE", "KINDS", "SEED", "Trained", "reference_folders", "train_references"]

KINDS = ("full", "half")

AT_ONCE = 8
"""Adapters that train in one pass, and are kept together, unless told otherwise."""

SEED = 1000
"""Seed of the first reference, far from those that adapters under audit usually have: one with
the seed of the audited adapter would share its initial weights and data order."""

_PREFIX = "reference-"


@dataclass(frozen=True)
class Trained:
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
class _Wanted:
    """One reference to be had: where, and all that decides its weights."""

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
        for name, (found, wanted) in facts.items():
            if found != wanted:
                return f"it was made with another {name.replace('finetuned_with', 'setting')}"
        if line.digest != weights_digest(self.folder):
            return "its weights are not those that its lineage names"
        return None


def train_references(
    model: str | Path,
    data: str | Path | Records,
    output: str | Path,
    *,
    forget: str | None = None,
    count: int = 8,
    kind: str = "full",
    like: str | Path | None = None,
    at_once: int = AT_ONCE,
    template: str | None = None,
    lora: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = SEED,
    overwrite: bool = False,
    announce: Callable[[Plan], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **opening: Any,
) -> Trained:
    """Train references into `output/reference-00` …, and keep those that are there already.

    Each equals, within rounding, what `finetune` makes of the same records, settings and seed.

    Args:
        model: base model, a folder or hub name.
        data: the records of the original training.
        output: folder of the references.
        forget: records that no reference sees (IDS syntax); for `full`.
        count: how many.
        kind: `full`: on all other records, each with a seed of its own; `half`: each on a random
            half, so that every record is in exactly half of them.
        like: the adapter under audit: its lineage and shape give the settings.
        at_once: how many train in one pass; fewer take less memory.
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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise OptionError("references train in one process: start the command without a launcher")
    _check_choice(kind, forget, count, at_once)
    target = check_output(output, overwrite=True)
    records = data if isinstance(data, Records) else Records.load(data)
    below = resolve_folder(like, "adapter") if like is not None else None
    parent = Lineage.read(below) if below else None
    training, config = _settings(below, parent, lora or {}, options or {})
    check_stackable(config, training)
    seen = _left(records, forget) if kind == "full" else records
    splits = half_splits(seen, count, seed) if kind == "half" else [[*range(len(seen))]] * count
    key = Key.load()
    check_suppressed(seen, key)
    state = open_model(model, **opening)
    base = Base(name=state.name, digest=state.base_digest())
    if parent and parent.base.digest != base.digest:
        raise ModelError(
            f"--like {like} was trained on another base ({parent.base.name}) than {state.name}: "
            "their weights differ"
        )
    named = template or (parent.template if parent else None)
    used = choose_template(named, state.tokenizer, seen)
    digests = [key.digest(record) for record in seen]
    seeds = islice((s for s in counting(seed) if not parent or s != parent.seed), count)
    wanted = [
        _Wanted(
            target / f"{_PREFIX}{i:02}",
            split,
            {
                "base": base,
                "template": used.name,
                "seed": own,
                "finetuned_with": {"training": training.model_dump(), "lora": config},
                "records": RecordDigests(
                    key_id=key.id, trained=sorted({digests[p] for p in split})
                ),
            },
        )
        for i, (split, own) in enumerate(zip(splits, seeds, strict=True))
    ]
    todo = _missing(target, wanted, overwrite=overwrite)
    limit = min(training.max_length or state.max_length, state.max_length)
    examples = encode(seen, state.tokenizer, used, limit)
    notes: tuple[str, ...] = ()
    if like is None:
        notes = (
            "nothing says how the adapter they are compared with was trained: they train as "
            "`unlearn finetune` does with these options; name that adapter with --like",
        )
    if len(todo) < count:
        notes += (f"{count - len(todo)} of {count} are there already and were kept",)
    steps = [total_steps(training, len(one.positions)) for one in todo]
    if announce and todo:
        what = f"train {len(todo)} references, {min(at_once, len(todo))} at once"
        seconds = expected_seconds(state, examples, sum(steps), training)
        announce(Plan(what, sum(steps), seconds, notes))
    done = 0
    for start in range(0, len(todo), at_once):
        group = todo[start : start + at_once]

        def tell(now: int, _: int, before: int = done) -> None:
            if progress:
                progress(before + now, sum(steps))

        state = _train(state, group, config, training, examples, tell)
        done += sum(steps[start : start + at_once])
    return Trained(tuple(one.folder for one in wanted), count - len(todo), notes)


def reference_folders(path: str | Path) -> list[str | Path]:
    """Return the references in a folder that `train_references` made, or the path itself.

    Args:
        path: an adapter, or a folder of references.

    Returns:
        One path or more.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() or (folder / "adapter_config.json").is_file():
        return [path]
    return [*_present(folder)] or [path]


def _present(folder: Path) -> Iterator[Path]:
    """Yield the references in a folder, in order."""
    yield from sorted(
        path for path in folder.glob(f"{_PREFIX}*") if (path / "adapter_config.json").is_file()
    )


def _check_choice(kind: str, forget: str | None, count: int, at_once: int) -> None:
    if kind not in KINDS:
        raise OptionError(f"--kind {kind!r} is not {' or '.join(KINDS)}")
    if count < 1 or at_once < 1:
        raise OptionError("--count and --at-once must be at least 1")
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


def _left(records: Records, forget: str | None) -> Records:
    """Return the records that references see."""
    gone = records.select(forget or "")
    left = records.without(gone)
    if not len(left):
        raise SelectionError("--forget names every record of --data: none is left to train on")
    contents = {record.canonical for record in gone}
    copies = [record.id for record in left if record.canonical in contents]
    if copies:
        raise DataError(
            f"{records.source}: {len(copies)} more record(s) have the same content as records to "
            f"forget, first {copies[0]!r}; name them in --forget too"
        )
    return left


def _missing(target: Path, wanted: Sequence[_Wanted], *, overwrite: bool) -> list[_Wanted]:
    """Return the references that are not there yet; refuse a folder that holds others."""
    folders = {one.folder for one in wanted}
    surplus = [path for path in _present(target) if path not in folders]
    if surplus:
        raise OutputError(
            f"{surplus[0]} is one more than --count {len(wanted)}: raise --count, or delete it"
        )
    todo = []
    for one in wanted:
        problem = one.differs() if one.folder.exists() else "it is not there"
        if problem is None:
            continue
        if one.folder.exists() and not overwrite:
            raise OutputError(
                f"{one.folder} is not the reference asked for: {problem}; name another --output, "
                "or pass --overwrite to train it again"
            )
        todo.append(one)
    return todo


def _train(
    state: ModelState,
    group: Sequence[_Wanted],
    config: Mapping[str, Any],
    training: TrainingOptions,
    examples: Sequence[Example],
    progress: Callable[[int, int], None],
) -> ModelState:
    """Train some references at once and put them in place; return the bare base again."""
    seeds = [one.facts["seed"] for one in group]
    stacked = stack_adapters(state, dict(config), seeds)
    parts = [[examples[p] for p in one.positions] for one in group]
    fits = fit_stacked(stacked, training, parts, seeds, progress)
    for i, (one, fit) in enumerate(zip(group, fits, strict=True)):
        with staged_folder(one.folder, overwrite=True) as stage:
            save_stacked(stacked, i, stage)
            Lineage(
                schema=1,
                created=now(),
                verb="references",
                digest=weights_digest(stage),
                kind="adapter",
                method="finetune",
                options=training.model_dump(),
                cost=fit.cost(),
                versions=library_versions(),
                **one.facts,
            ).write(stage)
    return replace(state, model=stacked.model.unload())
