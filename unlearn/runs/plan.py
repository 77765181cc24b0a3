"""What a run will take, told before it starts: nothing is trained and nothing written.

Where a model's weights are at hand they are opened, and a step is timed. Where there is only its
configuration, or where they are tens of gigabytes, shapes alone tell everything but the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearn.canaries.planted import lot_of
from unlearn.data.splits import half_splits, loaded
from unlearn.data.tokenization import Example
from unlearn.errors import ModelError, OptionError
from unlearn.files import check_output
from unlearn.losses import NLL
from unlearn.methods.affordable import affordable_steps, trained_first
from unlearn.methods.budget import budget_of
from unlearn.methods.defaults import decided, original_training, same_training
from unlearn.methods.job import placed
from unlearn.methods.method import Resolved
from unlearn.methods.plans import TrainingPlan, tokens_of
from unlearn.methods.retrain import steps_within_budget
from unlearn.model.folders import place_of, resolve_folder, stacked
from unlearn.model.opening import Opening
from unlearn.model.shape import shape_of
from unlearn.model.weightless import Weightless, weightless
from unlearn.provenance.keys import Key
from unlearn.provenance.suppression import check_suppressed
from unlearn.runs.finetuning import run_finetune, without_excluded
from unlearn.runs.forgetting import (
    LEAVE_OUT,
    parent_of,
    plan_forget,
    resolved_of,
    split_of,
    without_earlier,
)
from unlearn.runs.options import FinetuneOptions, ForgetOptions, ReferencesOptions
from unlearn.runs.ray_cluster import check_engine
from unlearn.runs.references import run_references, seen_by_references, settings_of
from unlearn.runs.run_plan import RunPlan, announced, examples_for, is_opened, of_training
from unlearn.training.memory import Work
from unlearn.training.objective import Objective
from unlearn.training.options import finetuning_options, total_steps
from unlearn.training.private.options import check_private, privacy_options
from unlearn.training.stages import StageOptions, steps_of
from unlearn.training.tokens import scored_before

__all__ = ["finetune_plan", "forget_plan", "references_plan"]

_PLAIN = Objective(retain=NLL())


def finetune_plan(options: FinetuneOptions) -> RunPlan:
    """Return what `run_finetune` would take; raises what it would."""
    folder = resolve_folder(options.model, "model", weights=False)
    training, lora = finetuning_options(options.options, options.lora, "finetune")
    adapters = [] if options.full else [lora.model_dump()]
    shapes = _shapes(folder, options.opening, adapters)
    if is_opened(folder):
        plan = announced(lambda tell: run_finetune(_silent(options, tell)))
        assert plan is not None
        return of_training(plan, shapes, options.opening, timed=True)
    check_output(options.output, overwrite=options.overwrite)
    if privacy_options(options.dp):
        trackers = options.report_to is not None
        check_private(options.options, training, lora, full=options.full, trackers=trackers)
    key = Key.load()
    records = without_excluded(loaded(options.data), options.exclude, key).records
    check_suppressed(records, key, advice="leave them out with --exclude")
    limit = min(training.max_length or shapes.max_length, shapes.max_length)
    examples, notes = examples_for([records], folder, options.opening, options.template, limit)
    steps = total_steps(training, len(examples[0]))
    work = Work(_PLAIN, training, steps, (), examples[0], seed=options.seed)
    text = f"train {'the whole model' if options.full else 'an adapter'} on {len(records)} records"
    if options.canaries:
        notes += (f"{options.canaries} records of canaries come on top",)
    tokens = tokens_of(training, steps, (), examples[0])
    plan = TrainingPlan(text, steps, 0.0, notes, tokens, work=None if options.dp else work)
    return of_training(plan, shapes, options.opening, timed=False)


def forget_plan(options: ForgetOptions) -> RunPlan:
    """Return what `run_forget` would take; raises what it would."""
    folder = resolve_folder(options.model, "model", weights=False)
    named = [resolve_folder(each, "adapter") for each in stacked(options.adapter)]
    shapes = _shapes(folder, options.opening, [shape_of(each) for each in named])
    if is_opened(folder):
        return of_training(plan_forget(options), shapes, options.opening, timed=True)
    check_output(options.output, overwrite=options.overwrite)
    return _forget_by_shapes(options, folder, named, shapes)


def references_plan(options: ReferencesOptions) -> RunPlan | None:
    """Return what `run_references` would take; None where all are there. Raises what it would."""
    folder = resolve_folder(options.model, "model", weights=False)
    settings = settings_of(options)
    check_engine(options.engine, options.address)
    shapes = _shapes(folder, options.opening, [settings.config])
    if is_opened(folder):
        plan = announced(lambda tell: run_references(_silent(options, tell)))
        if plan is None:
            return None
        return of_training(plan, shapes, options.opening, timed=True)
    check_output(options.output, overwrite=True)
    seen = seen_by_references(loaded(options.data), options)
    check_suppressed(seen, Key.load())
    limit = min(settings.training.max_length or shapes.max_length, shapes.max_length)
    (examples,), notes = examples_for(
        [seen], folder, options.opening, options.template or settings.template, limit
    )
    if options.kind == "half":
        chosen = half_splits(seen, options.count, options.seed)
        examples = [examples[i] for i in max(chosen, key=len)]
    stages = settings.stages or (StageOptions.of(settings.training),)
    steps = steps_of(stages, len(examples))
    tokens = sum(tokens_of(s, total_steps(s, len(examples)), (), examples) for s in stages)
    plan = TrainingPlan(
        f"train {options.count} references",
        steps * options.count,
        0.0,
        notes,
        tokens * options.count,
        work=Work(_PLAIN, stages[0], steps, (), examples, seed=options.seed),
    )
    return of_training(plan, shapes, options.opening, timed=False)


def _silent(options: Any, tell: Callable[[TrainingPlan], None]) -> Any:
    """Return the options of a run that only tells its plan."""
    if options.options.get("save_steps"):
        raise OptionError("a plan keeps no checkpoints: leave save_steps out")
    off = {"report_to": None, "plan": False}
    without = {name: value for name, value in off.items() if hasattr(options, name)}
    return replace(options, announce=tell, progress=False, **without)


def _shapes(folder: Path, opening: Opening, adapters: Sequence[Mapping[str, Any]]) -> Weightless:
    return weightless(folder, opening, place_of(opening.device), adapters)


def _forget_by_shapes(
    options: ForgetOptions, folder: Path, adapters: Sequence[Path], shapes: Weightless
) -> RunPlan:
    """Plan a deletion without weights: what would be measured first is left open."""
    resolved, key = resolved_of(options), Key.load()
    method = resolved.method
    canaries = lot_of(options.canaries, options.with_canaries, options.model, options.adapter, key)
    split, notes = split_of(options, canaries, needs_retain=method.needs_retain)
    changed = adapters[-1] if adapters else folder
    parent = parent_of(changed, key)
    split, again = without_earlier(split, parent, key, needs_retain=method.needs_retain)
    check_suppressed(split.retain, key, advice=LEAVE_OUT)
    limit = min(resolved.training.max_length or shapes.max_length, shapes.max_length)
    name = options.template or (parent.template if parent else None)
    parts = [split.forget, split.retain]
    (forget, retain), told = examples_for(parts, folder, options.opening, name, limit)
    examples = {"forget": forget, "retain": retain}
    original = original_training(parent, changed, options.was)
    most = affordable_steps(resolved, examples, parent, original, None)
    resolved, decisions = decided(resolved, parent, len(forget), original, most=most)
    if method.kind == "exact":
        if len(adapters) > 1:
            raise ModelError(
                f"{method.name}: not possible on top of other adapters; merge them into the base "
                "first"
            )
        given = {k: v for k, v in resolved.given.items() if k not in method.extra}
        training = same_training(parent, given, "retrain", original)
        stage, steps, _ = steps_within_budget(training, len(retain), budget_of(resolved.extra))
        work = Work(_PLAIN, stage, steps, (), retain, seed=options.seed)
    else:
        work, more = _approximate(resolved, examples, shapes, options.seed)
        decisions += more
    tokens = tokens_of(work.training, work.steps, work.forget, work.retain, work.alternates)
    parts_of = (work.forget, work.retain, work.alternates)
    tokens += scored_before(work.objective, work.training, work.steps, *parts_of)
    if method.kind != "exact":
        tokens += trained_first(resolved.extra, forget, retain)
        told += (
            "without weights no record is scored: whether they are known by heart, and the level "
            "to stop at, are left open, and with them what scoring takes and how many steps",
        )
    plan = TrainingPlan(
        f"{method.name}: {method.summary}",
        work.steps,
        0.0,
        (*notes, *again, *decisions, *told),
        tokens,
        work=work,
    )
    return of_training(plan, shapes, options.opening, timed=False)


def _approximate(
    resolved: Resolved, examples: Mapping[str, Sequence[Example]], shapes: Weightless, seed: int
) -> tuple[Work, tuple[str, ...]]:
    """Return the training of an approximate method that is a loss."""
    method, notes = resolved.method, tuple[str, ...]()
    if method.kind != "loss":
        raise OptionError(
            f"{method.name}: what it takes is told by running parts of it, and there are no "
            "weights to open: --plan needs them for this method"
        )
    if method.run.endswith(":run_hidden"):
        resolved, notes = placed(resolved, shapes.model)
    objective = Objective(
        resolved.forget, resolved.retain, resolved.forget_weight, resolved.retain_weight
    )
    forget = examples["forget"]
    retain = examples["retain"] if resolved.retain is not None else ()
    others = forget if "alternates" in objective.needs else ()
    steps = total_steps(resolved.training, len(forget))
    return Work(objective, resolved.training, steps, forget, retain, others, seed), notes
