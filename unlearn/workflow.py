"""Fine-tune on records, and take records out again: what the command line and Python both call."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn import lineage as lin
from unlearn._auto import decided
from unlearn._first_look import Measured, measure, warnings_of
from unlearn._output import check_output, staged_folder
from unlearn._planting import lot_of
from unlearn._splits import check_disjoint, loaded, retained
from unlearn.alternates import alternates
from unlearn.batches import Example, encode
from unlearn.canaries import beside, joined, plan_for
from unlearn.errors import OutputError, SelectionError
from unlearn.job import Job, Plan, expected_seconds
from unlearn.lineage import Lineage
from unlearn.losses import NLL
from unlearn.methods import get_method, resolve
from unlearn.models import ModelState, new_adapter, open_model
from unlearn.options import (
    USUAL_RATE,
    LoraOptions,
    TrainingOptions,
    check_wrappers,
    validated,
    without_auto,
)
from unlearn.records import Record, Records
from unlearn.templates import Template, choose_template
from unlearn.trainer import Objective
from unlearn.training import Fit, fit, sample, total_steps

__all__ = ["Measured", "Plan", "Result", "finetune", "forget"]

DEFAULT_METHOD = "pilot"

# How training options of `finetune` differ from the general ones.
FINETUNE_DEFAULTS: dict[str, Any] = {"learning_rate": USUAL_RATE, "epochs": 10}


@dataclass(frozen=True)
class Result:
    """A saved adapter (or model) and what making it showed.

    Attributes:
        folder: where it is.
        lineage: what it was made from.
        fit: what training did.
        before: first look by split, before.
        after: first look by split, after.
        notes: what the user should know.
    """

    folder: Path
    lineage: Lineage
    fit: Fit
    before: Mapping[str, Measured] = field(default_factory=dict)
    after: Mapping[str, Measured] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


Announce = Callable[[Plan], None]
Progress = Callable[[int, int], None]


def finetune(
    model: str | Path,
    data: str | Path | Records,
    output: str | Path,
    *,
    exclude: str | None = None,
    canaries: int = 0,
    full: bool = False,
    template: str | None = None,
    lora: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    announce: Announce | None = None,
    progress: Progress | None = None,
    **opening: Any,
) -> Result:
    """Train a LoRA adapter, or the whole model, on records, and save it with its lineage.

    Args:
        model: base model, a folder or hub name.
        data: the records.
        output: folder for the adapter.
        exclude: ids of records to leave out (IDS syntax).
        canaries: pairs of made-up records to plant: one of each, by a coin, is trained on. They go
            to `OUTPUT.canaries.json`; the same run started again goes on with those there.
        full: train the whole model instead of an adapter.
        template: how records are written as text; by default the chat template, else `qa`.
        lora: options of the new adapter, see `LoraOptions`.
        options: training options, see `TrainingOptions`.
        seed: of initial weights, data order and dropout.
        overwrite: replace an output folder that is not empty.
        announce: told the plan before training starts.
        progress: called with (steps done, steps planned).
        **opening: `dtype`, `device`, `trust_remote_code`, `load_in_4bit` of `open_model`.

    Returns:
        The saved adapter.

    Raises:
        UnlearnError: for any input that cannot be used; nothing is written then.
    """
    target = check_output(output, overwrite=overwrite)
    training = validated(
        TrainingOptions, FINETUNE_DEFAULTS | without_auto(options or {}), "finetune"
    )
    check_wrappers(without_auto(options or {}), training, "finetune", forget=False, retain=True)
    adapter = validated(LoraOptions, lora or {}, "lora")
    records = loaded(data)
    if exclude:
        left_out = records.select(exclude)
        if len(left_out) == len(records):
            raise SelectionError("--exclude leaves no record to train on")
        records = records.without(left_out)
    key = lin.Key.load()
    lin.check_suppressed(records, key)
    file = beside(target)
    sown = plan_for(file, records, canaries, key) if canaries else None
    state = open_model(model, trainable=full, **opening)
    if not full:
        state = new_adapter(state, adapter.model_dump(), seed)
    chosen = choose_template(template, state.tokenizer, records)
    trained = joined(records, sown.included) if sown else records
    examples = _encode(trained, state, chosen, training)
    notes = _cut_notes(examples)
    steps = total_steps(training, len(examples))
    settings = {"training": training.model_dump(), "lora": None if full else adapter.model_dump()}
    if announce:
        what = f"train {'the whole model' if full else 'an adapter'} on {len(examples)} records"
        announce(Plan(what, steps, expected_seconds(state, examples, steps, training), notes))
    signature: dict[str, Any] = {"verb": "finetune", "seed": seed, **settings}
    if sown:
        sown.publish(file)
        there = plan_for(file, records, canaries, key)
        if there != sown:  # of several processes another was first
            trained = joined(records, there.included)
            examples = _encode(trained, state, chosen, training)
        sown = there
        signature["canaries"] = sown.commitment.sha256
        notes += (
            f"{canaries} pairs of canaries were planted; keep {file}, apart from the adapter: only "
            "with it can they be used, and whoever reads it knows them",
        )
    done = fit(
        state,
        Objective(retain=NLL()),
        training,
        retain=examples,
        seed=seed,
        checkpoints=_checkpoints(target, training, signature),
        progress=progress,
    )
    after = {"train": measure(state, sample(examples))}
    digests = lin.RecordDigests(
        key_id=key.id, trained=sorted({key.digest(record) for record in trained})
    )
    line = _save(
        state,
        target,
        overwrite=overwrite,
        verb="finetune",
        parent=None,
        records=digests,
        canaries=sown.commitment if sown else None,
        template=chosen.name,
        method="finetune",
        options=settings["training"],
        finetuned_with=settings,
        seed=seed,
        fit=done,
    )
    return Result(target, line, done, after=after, notes=notes)


def forget(
    model: str | Path,
    data: str | Path | Records,
    forget: str,
    output: str | Path,
    *,
    adapter: str | Path | Sequence[str | Path] | None = None,
    method: str = DEFAULT_METHOD,
    holdout: str | Path | Records | None = None,
    retain: str | Path | Records | None = None,
    canaries: str | Path | None = None,
    with_canaries: int = 0,
    template: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    suppress: bool = False,
    announce: Announce | None = None,
    progress: Progress | None = None,
    **opening: Any,
) -> Result:
    """Take records out of an adapter (or a fully fine-tuned model) and save the result.

    Args:
        model: base model; without `adapter`, the fully fine-tuned model.
        data: the records it was trained on (or just those to forget, with `retain` given).
        forget: which of them to take out (IDS syntax).
        output: folder for the new adapter.
        adapter: the adapter to change, on top of any others before it.
        method: name of the method.
        holdout: records the model never saw: their loss is where forgetting stops.
        retain: records to keep, when `data` no longer holds the rest.
        canaries: file of those planted in the adapter: those still in it count as data.
        with_canaries: how many of them to take out beside the records.
        template: how records are written; by default what the adapter's lineage says.
        options: method and training options.
        seed: of data order and dropout.
        overwrite: replace an output folder that is not empty.
        suppress: put the records on the suppression list afterwards.
        announce: told the plan before training starts.
        progress: called with (steps done, steps planned).
        **opening: `dtype`, `device`, `trust_remote_code`, `load_in_4bit` of `open_model`.

    Returns:
        The saved adapter, with a first look before and after.

    Raises:
        UnlearnError: for any input that cannot be used; nothing is written then.
    """
    target = check_output(output, overwrite=overwrite)
    chosen_method = get_method(method)
    resolved = resolve(chosen_method, options or {})
    key = lin.Key.load()
    lot = lot_of(canaries, with_canaries, model, adapter, key)
    records = joined(loaded(data), lot.left)
    gone = lot.gone(records, forget)
    kept = retained(records, gone, lot.retain(retain), needed=chosen_method.needs_retain)
    unseen = loaded(holdout) if holdout is not None else None
    check_disjoint(unseen, gone, kept)
    lin.check_suppressed(kept, key)
    state = open_model(model, adapter, trainable=chosen_method.kind != "exact", **opening)
    parent = Lineage.read(state.adapter or state.folder)
    resolved, notes = decided(resolved, parent, len(gone))
    handed_down = lot.planted
    if parent and parent.canaries and lot.planted is None:
        notes.append(
            f"{parent.canaries.pairs} pairs of canaries were planted in the adapter, and nothing "
            "looks after them here: name their file with --canaries"
        )
        # retraining without them leaves nothing that they could show
        handed_down = None if chosen_method.kind == "exact" else parent.canaries
    name = template or (parent.template if parent else None)
    used = choose_template(name, state.tokenizer, records)
    if name is None:
        notes.append(
            f"no lineage says how the records were written: assuming the template {used.name!r}; "
            "pass --template if it was another"
        )
    split = {
        "forget": _encode(gone, state, used, resolved.training),
        "retain": _encode(kept, state, used, resolved.training),
        "holdout": _encode(unseen, state, used, resolved.training) if unseen else [],
    }
    if chosen_method.alternates:
        split["alternate"] = alternates(
            chosen_method.alternates,
            gone,
            split["forget"],
            state,
            lambda rows: _encode(rows, state, used, resolved.training),
            path=resolved.extra["alternates"],
            count=int(resolved.extra["alternate_count"]),
            seed=seed,
        )
    notes += _cut_notes([e for part in split.values() for e in part])
    look = {name: sample(split[name]) for name in _LOOKED_AT if split[name]}
    before = {name: measure(state, part) for name, part in look.items()}
    checkpoints = _checkpoints(
        target,
        resolved.training,
        {
            "verb": "forget",
            "method": method,
            "options": resolved.as_dict(),
            "seed": seed,
            "parent": state.digest(),
            "forget": sorted(key.digest(r) for r in gone),
        },
    )
    job = Job(
        state, resolved, parent, split, seed, checkpoints, announce, progress, opening, tuple(notes)
    )
    state, done = job.run()
    after = {name: measure(state, part) for name, part in look.items()}
    how = done.training.model_dump()
    trained = {key.digest(r) for r in kept}
    if chosen_method.kind != "exact":
        trained |= {key.digest(r) for r in gone} | set(parent.records.trained if parent else ())
    forgotten = {key.digest(r) for r in gone} | set(parent.records.forgotten if parent else ())
    line = _save(
        state,
        target,
        overwrite=overwrite,
        verb="forget",
        parent=None if chosen_method.kind == "exact" else job.state.digest(),
        records=lin.RecordDigests(
            key_id=key.id, trained=sorted(trained), forgotten=sorted(forgotten)
        ),
        canaries=handed_down,
        template=used.name,
        method=method,
        options=resolved.as_dict() | how,
        finetuned_with=(parent.finetuned_with if parent else {})
        | ({"training": how} if chosen_method.kind == "exact" else {}),
        seed=seed,
        fit=done,
    )
    if suppress:
        own = lot.without(gone)
        path = lin.suppress(own, f"taken out by {method}", key)
        notes.append(f"{len(own)} record(s) are on the suppression list {path}")
    notes += warnings_of(before, after)
    return Result(target, line, done, before, after, tuple(notes))


# What a first look before and after is taken of.
_LOOKED_AT = ("forget", "retain", "holdout")


def _encode(
    records: Iterable[Record], state: ModelState, template: Template, training: TrainingOptions
) -> list[Example]:
    limit = min(training.max_length or state.max_length, state.max_length)
    return encode(records, state.tokenizer, template, limit)


def _cut_notes(examples: Sequence[Example]) -> tuple[str, ...]:
    cut = [e for e in examples if e.cut]
    if not cut:
        return ()
    return (
        f"{len(cut)} record(s) are longer than max_length and were cut at the end, first "
        f"{cut[0].id!r} by {cut[0].cut} tokens",
    )


def _checkpoints(
    target: Path, training: TrainingOptions, signature: Mapping[str, Any]
) -> Path | None:
    """Return the folder of this run's checkpoints, refusing those of another run."""
    if not training.save_steps:
        return None
    folder = target.with_name(f".{target.name}.checkpoints")
    file = folder / "run.json"
    text = json.dumps(signature, sort_keys=True, indent=2)
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise OutputError(
            f"{folder} holds checkpoints of a run with other options; repeat that command to "
            "resume it, or delete the folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return folder


def _save(
    state: ModelState,
    target: Path,
    *,
    overwrite: bool,
    fit: Fit,
    **facts: Any,
) -> Lineage:
    """Write weights and lineage into place, on the main process only."""
    base = lin.Base(name=state.name, digest=state.base_digest())
    if int(os.environ.get("RANK", "0")) != 0:
        return Lineage(schema=1, created=lin.now(), base=base, digest="", kind=state.kind, **facts)
    with staged_folder(target, overwrite=overwrite) as stage:
        state.save(stage)
        line = Lineage(
            schema=1,
            created=lin.now(),
            base=base,
            digest=lin.weights_digest(stage),
            kind=state.kind,
            cost=fit.cost(),
            versions=lin.library_versions(),
            stopped=fit.stopped,
            **facts,
        )
        line.write(stage)
    return line
