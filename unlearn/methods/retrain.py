"""Exact deletion: train a new adapter from the base, without the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unlearn.config import validated
from unlearn.errors import LineageError, OptionError
from unlearn.losses import NLL
from unlearn.methods.budget import FACTORS, Budget, Recipe, budget_of, watched
from unlearn.methods.defaults import same_training
from unlearn.methods.job import Job
from unlearn.methods.plans import Cost, TrainingPlan, tokens_of
from unlearn.methods.reduced import Old, Search, most_steps
from unlearn.model.state import ModelState
from unlearn.provenance.lineage import Lineage
from unlearn.training.expected_time import expected_seconds
from unlearn.training.fitting import Fit
from unlearn.training.launched import whole_only
from unlearn.training.memory import Work
from unlearn.training.options import TrainingOptions, total_steps
from unlearn.training.stages import StageOptions
from unlearn.training.trainer import Objective

__all__ = ["run", "same_training", "stages_of", "steps_within_budget"]


_APPROXIMATE = "or choose an approximate method, such as --method pilot, that needs none of this"


def stages_of(parent: Lineage | None, given: Mapping[str, Any]) -> tuple[StageOptions, ...]:
    """Return the trainings, one after another, that made an adapter retrained with a budget.

    Args:
        parent: its lineage, if it has one.
        given: options that are to be otherwise in each.

    Returns:
        How each trains; none where the adapter was trained at once.

    Raises:
        OptionError: for an option that is unknown or impossible.
    """
    stages = (parent.finetuned_with if parent else {}).get("stages") or ()
    return tuple(validated(StageOptions, {**each, **given}, "retrain") for each in stages)


def run(job: Job) -> tuple[ModelState, Fit]:
    """Train again on the retain records, as the original training did or with a part of its rows.

    Settings come from the adapter's lineage, or from what another tool left beside it; options
    given by the user override them, and must give learning rate and epochs where nothing tells.
    At `budget` 1 they are taken as they are; below, `unlearn.methods.reduced` says what is done.

    Args:
        job: the job; options `budget`, `quality`.

    Returns:
        (the retrained state, what training did).

    Raises:
        LineageError: if the settings are known from nowhere, or a full fine-tune's base is.
    """
    own = job.resolved.method.extra
    given = {name: value for name, value in job.resolved.given.items() if name not in own}
    try:
        training = same_training(job.parent, given, "retrain", job.original)
    except LineageError as error:
        raise LineageError(f"{error}; {_APPROXIMATE}") from error
    budget = budget_of(job.resolved.extra)
    if budget.whole:
        again = replace(job, state=_fresh(job))
        result = again.fit(Objective(retain=NLL()), retain=job.split["retain"], training=training)
        return again.state, replace(result, trail={"asked": 1.0, "used": 1.0})
    whole_only("a budget below 1", "it puts earlier weights back: use -o budget=1")
    if job.checkpoints is not None:
        raise OptionError("retrain: a budget below 1 keeps no checkpoints: leave save_steps out")
    return _reduced(job, training, budget)


def _reduced(job: Job, training: TrainingOptions, budget: Budget) -> tuple[ModelState, Fit]:
    """Train with a part of the rows; of the old adapter one number enters, and only for `auto`."""
    retain = job.split["retain"]
    old = None
    if budget.share is None:
        examples = [retain[i] for i in watched(len(retain))]
        old = Old.of(job.state, examples, _drift(job.parent))
    fresh = _fresh(job)
    search = Search(fresh, retain, training, budget, job.seed, job.progress, old)
    if job.announce:
        chosen = Budget(1.0, budget.quality) if search.takes_the_whole() else budget
        job.announce(_plan(replace(job, state=fresh), training, chosen))
    return fresh, search.run()


def _drift(parent: Lineage | None) -> float:
    """Return by how much an adapter missed the loss that its own retraining had to reach."""
    losses = dict(parent.budget if parent else {}).get("kept_loss") or {}
    return float(losses.get("drift") or 0.0)


def _plan(job: Job, training: TrainingOptions, budget: Budget) -> TrainingPlan:
    """Say what is about to be trained."""
    retain, plain = job.split["retain"], Objective(retain=NLL())
    stage, steps, usual = steps_within_budget(training, len(retain), budget)
    seconds = expected_seconds(job.state, plain, stage, steps, retain=retain)
    work = Work(plain, stage, steps, (), retain, seed=job.seed)
    return job.plan(steps, Cost(tokens_of(stage, steps, (), retain), seconds, work), usual=usual)


def steps_within_budget(
    training: TrainingOptions, records: int, budget: Budget
) -> tuple[TrainingOptions, int, float]:
    """Return how a retraining trains at most.

    Args:
        training: how the original trained.
        records: to train on.
        budget: the part of that training.

    Returns:
        (options of its longest stage, optimizer steps of all, the part of them that is expected).
    """
    if budget.whole:
        return training, total_steps(training, records), 1.0
    recipe = Recipe(training, records, budget.first)
    steps = most_steps(recipe, budget)
    stage = recipe.stage(budget.most, FACTORS[0])
    tried = max(0, steps - total_steps(stage, records))
    first = tried + total_steps(recipe.stage(budget.first, FACTORS[0]), records)
    return stage, steps, first / steps if budget.share is None else 1.0


def _fresh(job: Job) -> ModelState:
    """Open what the original training began with."""
    if job.state.kind != "full":
        return job.fresh_adapter()
    if job.parent is None:
        raise LineageError(
            "retrain: this fully fine-tuned model has no lineage that names its base; run "
            f"`unlearn finetune --full` on the base with --exclude instead; {_APPROXIMATE}"
        )
    fresh = job.opening.open(job.parent.base.name, trainable=True)
    if fresh.base_digest() != job.parent.base.digest:
        raise LineageError(
            f"retrain: the model at {job.parent.base.name} is not the base that the lineage "
            "names: its weights changed"
        )
    return fresh
