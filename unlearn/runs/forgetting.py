"""Take records out of an adapter: what the command line and Python both call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearn.canaries.pairs import joined
from unlearn.canaries.planted import Lot, lot_of
from unlearn.config import called_with
from unlearn.data.records import Records
from unlearn.data.splits import check_disjoint, loaded, near_copies, retained
from unlearn.data.templates import Template, choose_template
from unlearn.data.tokenization import Example
from unlearn.errors import DataError, LineageError, OptionError
from unlearn.files import check_output
from unlearn.methods.affordable import affordable_steps
from unlearn.methods.alternates import Source, alternates
from unlearn.methods.defaults import OriginalTraining, decided, original_training
from unlearn.methods.job import Job, TrainingPlan
from unlearn.methods.method import Method, Resolved
from unlearn.methods.registry import get_method, resolve
from unlearn.model.state import ModelState
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, Planted, RecordDigests
from unlearn.provenance.suppression import check_suppressed, suppress
from unlearn.recipe import ForgetRecipe, load_recipe
from unlearn.runs.options import DEFAULT_METHOD, DEFAULT_OPTIONS, ForgetOptions
from unlearn.runs.progress import shown
from unlearn.runs.quick_check import Measured, measure, warnings_of
from unlearn.runs.run_plan import announced
from unlearn.runs.saving import (
    Result,
    checkpoint_folder,
    encode_records,
    encoding_notes,
    poisoned_notes,
    save_result,
)
from unlearn.runs.signature import signature, source_digest, trained_from
from unlearn.runs.start import shown_start, with_start
from unlearn.training.fitting import Fit, sample
from unlearn.training.levels import Level, unseen_level
from unlearn.training.trackers import tracking_of

__all__ = [
    "DEFAULT_METHOD",
    "LEAVE_OUT",
    "Measured",
    "Result",
    "Split",
    "TrainingPlan",
    "forget",
    "parent_of",
    "plan_forget",
    "resolved_of",
    "run_forget",
    "split_of",
    "without_earlier",
]

# What a first look before and after is taken of.
_LOOKED_AT = ("forget", "retain", "holdout")

LEAVE_OUT = "leave them out of the data and of --retain, or name them in --forget"


def run_forget(options: ForgetOptions) -> Result:
    """Take records out of an adapter (or a fully fine-tuned model) and save the result.

    Raises UnlearnError for any input that cannot be used; nothing is written then.
    """
    if options.plan:
        raise OptionError("forget: call unlearn.runs.forgetting.plan_forget for a plan")
    target = check_output(options.output, overwrite=options.overwrite)
    resolved = resolved_of(options)
    method, key = resolved.method, Key.load()
    canaries = lot_of(options.canaries, options.with_canaries, options.model, options.adapter, key)
    split, notes = split_of(options, canaries, needs_retain=method.needs_retain)
    state = options.open(options.model, options.adapter, trainable=method.kind != "exact")
    folder = state.adapter or state.folder
    parent = parent_of(folder, key)
    split, again = without_earlier(split, parent, key, needs_retain=method.needs_retain)
    check_suppressed(split.retain, key, advice=LEAVE_OUT)
    original = original_training(parent, folder, options.was)
    template, assumed = _template(options.template, parent, state, split)
    examples = _encoded(split, state, template, resolved, options.seed)
    level = _level(resolved, state, examples)
    resolved, decisions = _decided(resolved, examples, parent, original, level)
    told = [*original.found, *original.notes] if method.kind == "exact" else []
    notes += [*state.notes, *again, *decisions, *told, *_unguarded_canaries(parent, canaries)]
    notes += assumed
    notes += poisoned_notes(split.retain)
    notes += encoding_notes([example for part in examples.values() for example in part])
    digests = _digests(split, key, parent, exact=method.kind == "exact")
    begun, start = None, None
    if options.start is not None:
        begun, start = shown_start(options.start, state, method, key, digests.forgotten)
    digests, start = with_start(digests, start, digests.forgotten)
    look = {name: sample(examples[name]) for name in _LOOKED_AT if examples[name]}
    before = {name: measure(state, part) for name, part in look.items()}
    facts = _signature(options, resolved, state, parent, template, split, examples)
    facts |= {"start": start.digest} if start else {}
    checkpoints = checkpoint_folder(target, resolved.training, facts)
    with tracking_of(options.report_to, target), shown(options.progress, "unlearning") as progress:
        job = Job(
            state,
            resolved,
            parent,
            examples,
            options.seed,
            checkpoints,
            options.announce,
            progress,
            options.opening,
            tuple(notes),
            original,
            begun,
            level,
        )
        state, fit = job.run()
    after = {name: measure(state, part) for name, part in look.items()}
    line = save_result(
        state,
        target,
        overwrite=options.overwrite,
        verb="forget",
        parent=None if method.kind == "exact" else job.state.digest(),
        start=start,
        records=digests,
        canaries=_handed_down(parent, canaries, method),
        poisoned=_poisoned(split, parent, exact=method.kind == "exact"),
        template=template.name,
        method=method.name,
        seed=options.seed,
        fit=fit,
        budget=_budget(fit, split.retain, key),
        **_settings(resolved, fit, parent),
        made_from=_made_from(method, facts),
    )
    if options.suppress:
        records = canaries.without(split.forget)
        path = suppress(records, f"taken out by {method.name}", key)
        notes.append(f"{len(records)} record(s) are on the suppression list {path}")
    notes += [*fit.notes, *warnings_of(before, after)]
    return Result(target, line, fit, before, after, tuple(notes), job.state.notes)


forget = called_with(ForgetOptions, run_forget, "forget")


def plan_forget(options: ForgetOptions) -> TrainingPlan:
    """Return what `run_forget` would do and what it would take, and change nothing.

    Args:
        options: of the run.

    Returns:
        The plan.

    Raises:
        OptionError: with `save_steps`, since checkpoints would have to be looked at.
    """
    if resolved_of(options).training.save_steps:  # it may stand in a recipe
        raise OptionError("forget: a plan keeps no checkpoints: leave save_steps out")

    quiet = replace(options, plan=False, progress=False, report_to=None)
    plan = announced(lambda tell: run_forget(replace(quiet, announce=tell)))
    assert plan is not None, "a method began without telling its plan"
    return plan


@dataclass(frozen=True)
class Split:
    """Which records a run takes out, which it keeps, and which the model never saw."""

    forget: Records
    retain: Records
    holdout: Records | None


def resolved_of(options: ForgetOptions) -> Resolved:
    """Return the method and its options: those given, over those of the recipe, over defaults."""
    name, chosen = options.method, options.options
    if options.recipe:
        recipe = load_recipe(options.recipe, ForgetRecipe)
        if name in {None, recipe.method}:
            chosen = {**recipe.options, **chosen}
        name = name or recipe.method
    if name is None:
        name, chosen = DEFAULT_METHOD, {**DEFAULT_OPTIONS, **chosen}
    return resolve(get_method(name), chosen)


def split_of(
    options: ForgetOptions, canaries: Lot, *, needs_retain: bool
) -> tuple[Split, list[str]]:
    """Split the data, refusing a holdout that shares records with the rest; return notes, too."""
    records = joined(loaded(options.data), canaries.left)
    forget_records = canaries.gone(records, options.forget)
    retain_records, notes = retained(
        records, forget_records, canaries.retain(options.retain), needed=needs_retain
    )
    holdout_records = None if options.holdout is None else loaded(options.holdout)
    check_disjoint(holdout_records, forget_records, retain_records)
    notes += near_copies(canaries.without(forget_records), canaries.without(retain_records))
    return Split(forget_records, retain_records, holdout_records), notes


def parent_of(folder: Path, key: Key) -> Lineage | None:
    """Return the lineage of what is changed, whose digests must compare with those made here."""
    line = Lineage.read(folder)
    if line is not None and line.records.key_id != key.id:
        raise LineageError(
            f"the lineage of {folder} was made with the key {line.records.key_id}, and the key in "
            f"use is {key.id}: which records were taken out before cannot be told; set UNLEARN_KEY "
            "to that key, or UNLEARN_HOME to the folder of its file"
        )
    return line


def without_earlier(
    split: Split, parent: Lineage | None, key: Key, *, needs_retain: bool
) -> tuple[Split, list[str]]:
    """Keep no record that was taken out of the adapter before: it would be learned again."""
    if parent is None or not parent.records.forgotten:
        return split, []
    earlier = set(parent.records.forgotten)
    again = [record.id for record in split.retain if key.digest(record) in earlier]
    if not again:
        return split, []
    if needs_retain and len(again) == len(split.retain):
        raise DataError(
            f"{split.retain.source}: all records to keep were taken out of the adapter before"
        )
    names = set(again)
    places = [i for i, name in enumerate(split.retain.ids) if name not in names]
    return replace(split, retain=split.retain.take(places)), [
        f"{len(again)} record(s) of the data were taken out of the adapter before, first "
        f"{again[0]!r}: they are not learned again"
    ]


def _template(
    name: str | None, parent: Lineage | None, state: ModelState, split: Split
) -> tuple[Template, list[str]]:
    """Return the template that is given, else the lineage's, else a guess that is told."""
    known = name or (parent.template if parent else None)
    parts = (split.forget, split.retain, split.holdout)
    template = choose_template(known, state.tokenizer, *(part for part in parts if part))
    if known is not None:
        return template, []
    return template, [
        f"no lineage says how the records were written: assuming the template {template.name!r}; "
        "pass --template if it was another"
    ]


def _encoded(
    split: Split, state: ModelState, template: Template, resolved: Resolved, seed: int
) -> dict[str, list[Example]]:
    """Return the splits as tokens, with alternate answers where the method needs them."""

    def encode(records: Any) -> list[Example]:
        return encode_records(records, state, template, resolved.training)

    examples = {
        "forget": encode(split.forget),
        "retain": encode(split.retain),
        "holdout": encode(split.holdout) if split.holdout else [],
    }
    if resolved.method.alternates:
        examples["alternate"] = alternates(
            Source(
                resolved.method.alternates,
                int(resolved.extra["alternate_count"]),
                resolved.extra["alternates"],
            ),
            split.forget,
            examples["forget"],
            state,
            encode,
            seed,
        )
    return examples


def _level(
    resolved: Resolved, state: ModelState, examples: Mapping[str, Sequence[Example]]
) -> Level | None:
    """Measure the loss of unseen records, where the regime or the stop rule depends on it."""
    training = resolved.training
    stops = resolved.forget is not None and training.stop == "auto" and training.stop_loss is None
    if resolved.method.kind == "exact" or not (stops or resolved.regime == "auto"):
        return None
    return unseen_level(state, examples["forget"], examples["holdout"])


def _decided(
    resolved: Resolved,
    examples: Mapping[str, Sequence[Example]],
    parent: Lineage | None,
    original: OriginalTraining,
    level: Level | None,
) -> tuple[Resolved, list[str]]:
    """Decide what was left open, within what retraining allows; return what to know of it, too."""
    most = affordable_steps(resolved, examples, parent, original, level)
    forget = len(examples["forget"])
    return decided(resolved, parent, forget, original, level=level, most=most)


def _signature(
    options: ForgetOptions,
    resolved: Resolved,
    state: ModelState,
    parent: Lineage | None,
    template: Template,
    split: Split,
    examples: Mapping[str, Sequence[Example]],
) -> dict[str, Any]:
    """Return everything that decides the weights of this run."""
    key = Key.load()
    records = {
        "forget": split.forget,
        "retain": split.retain,
        "holdout": split.holdout or (),
        "alternate": (),  # what is answered instead is compared as tokens
    }
    parts = {
        name: ([key.digest(record) for record in records[name]], encoded)
        for name, encoded in examples.items()
    }
    return signature(
        state,
        parts,
        key,
        template,
        verb="forget",
        method=resolved.method.name,
        code=source_digest(options.method or ""),
        options=resolved.as_dict(),
        seed=options.seed,
        trained_before=parent.finetuned_with if parent else None,
    )


def _unguarded_canaries(parent: Lineage | None, canaries: Lot) -> list[str]:
    """Say so where canaries lie in the adapter and their file was not named."""
    if parent is None or parent.canaries is None or canaries.planted is not None:
        return []
    return [
        f"{parent.canaries.pairs} pairs of canaries were planted in the adapter, and nothing looks "
        "after them here: name their file with --canaries"
    ]


def _handed_down(parent: Lineage | None, canaries: Lot, method: Method) -> Planted | None:
    """Return the commitment to canaries that the result inherits."""
    if canaries.planted is not None or parent is None:
        return canaries.planted
    # retraining without them leaves nothing that they could show
    return None if method.kind == "exact" else parent.canaries


def _poisoned(split: Split, parent: Lineage | None, *, exact: bool) -> int:
    """Count the poisoned records that shaped the result."""
    kept = len(split.retain.poisoned)
    if exact:
        return kept
    return max(kept + len(split.forget.poisoned), parent.poisoned if parent else 0)


def _digests(split: Split, key: Key, parent: Lineage | None, *, exact: bool) -> RecordDigests:
    """Return what the lineage says of records: those that shaped the weights, those taken out."""
    trained = set(map(key.digest, split.retain))
    forgotten = set(map(key.digest, split.forget))
    if not exact:
        trained |= forgotten | set(parent.records.trained if parent else ())
    forgotten |= set(parent.records.forgotten if parent else ())
    records = RecordDigests(key_id=key.id, trained=sorted(trained), forgotten=sorted(forgotten))
    return records.left_out(forgotten) if exact else records


def _settings(resolved: Resolved, fit: Fit, parent: Lineage | None) -> dict[str, Any]:
    """Return the options that the lineage tells: the method's, and those of the first training."""
    training = fit.training.model_dump()
    first = dict(parent.finetuned_with) if parent else {}
    if resolved.method.kind == "exact":
        for name in ("stages", "federation"):  # it is trained at once, and at one place
            first.pop(name, None)
        first |= dict(fit.recipe) or {"training": training}
    return {"options": resolved.as_dict() | training, "finetuned_with": first}


def _made_from(method: Method, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decided the weights of exact retraining, for those who train again."""
    if method.kind != "exact":
        return {}
    made_from = trained_from(facts, "retain")
    if not facts["adapters"]:  # of a full fine-tune the model that was opened is not the base
        made_from = {name: fact for name, fact in made_from.items() if "base" not in name}
    return made_from


def _budget(fit: Fit, retain: Records, key: Key) -> dict[str, Any]:
    """Return what decided a retraining with a budget, its watched records by their digests."""
    trail = dict(fit.trail)
    if "watched" in trail:
        trail["watched"] = [key.digest(retain[i]) for i in trail["watched"]]
    return trail
