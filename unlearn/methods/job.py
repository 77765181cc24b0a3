"""One unlearning run: what a method is given, and how it is run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearn.data.tokenization import Example
from unlearn.errors import LineageError, ModelError, OptionError
from unlearn.losses import NLL, HiddenLoss, Loss
from unlearn.methods.defaults import OriginalTraining, same_training
from unlearn.methods.plans import Cost, TrainingPlan, tokens_of
from unlearn.methods.registry import Resolved
from unlearn.model.blocks import blocks_of, blocks_that_can_train
from unlearn.model.opening import Opening
from unlearn.model.save import load_trained
from unlearn.model.shape import adapter_like
from unlearn.model.state import ModelState
from unlearn.provenance.lineage import Lineage
from unlearn.training.expected_time import expected_seconds
from unlearn.training.fitting import Fit, fit, total_steps
from unlearn.training.launched import check_split
from unlearn.training.levels import Level
from unlearn.training.memory import Work
from unlearn.training.objective import Constraint, Objective, Teacher
from unlearn.training.options import TrainingOptions
from unlearn.training.tokens import FORWARD, scored_before

__all__ = ["Job", "TrainingPlan", "placed", "run_hidden", "run_loss"]


@dataclass(frozen=True)
class Job:
    """Everything a method works on.

    Attributes:
        state: the opened model, trainable.
        resolved: the method with its options.
        parent: lineage of the adapter, if it has one.
        split: encoded records: `forget`, `retain`, `holdout`, and `alternate` answers where the
            method needs them.
        seed: of data order and dropout.
        checkpoints: folder for checkpoints, if wanted.
        announce: to be told the plan.
        progress: to be told the steps.
        opening: how models are opened.
        notes: what the user should know so far.
        original: how the adapter was trained, as far as that is known; None for what the lineage
            tells.
        start: folder of an adapter that retraining begins with instead of a fresh one.
        level: the loss of unseen records, where it was measured.
    """

    state: ModelState
    resolved: Resolved
    parent: Lineage | None
    split: Mapping[str, Sequence[Example]]
    seed: int
    checkpoints: Path | None
    announce: Callable[[TrainingPlan], None] | None
    progress: Callable[[int, int], None] | None
    opening: Opening
    notes: tuple[str, ...] = ()
    original: OriginalTraining | None = None
    start: Path | None = None
    level: Level | None = None

    def run(self) -> tuple[ModelState, Fit]:
        """Run the method; return (the unlearned state, what training did)."""
        check_split(self.state, self.resolved.training)
        module, _, name = self.resolved.method.run.partition(":")
        runner: Callable[[Job], tuple[ModelState, Fit]] = getattr(
            importlib.import_module(module), name
        )
        return runner(self)

    def objective(
        self, forget: Loss | None = None, constraint: Constraint | None = None
    ) -> Objective:
        """Return what the method minimises, with its weights; `forget` replaces its forget loss."""
        chosen = self.resolved
        return Objective(
            forget or chosen.forget,
            chosen.retain,
            chosen.forget_weight,
            chosen.retain_weight,
            constraint,
        )

    def fit(
        self,
        objective: Objective,
        *,
        forget: Sequence[Example] = (),
        retain: Sequence[Example] = (),
        training: TrainingOptions | None = None,
        teacher: Teacher | None = None,
    ) -> Fit:
        """Announce the plan, then train this job's state on an objective.

        Args:
            objective: what to minimise.
            forget: examples to forget.
            retain: examples to keep, or to train on.
            training: how; by default the method's training options.
            teacher: for losses that need one.

        Returns:
            What was done.
        """
        how = training or self.resolved.training
        steps = total_steps(how, len(forget) or len(retain))
        alternates = self.split.get("alternate", ()) if "alternates" in objective.needs else ()
        if self.announce:
            seconds = expected_seconds(
                self.state, objective, how, steps, forget=forget, retain=retain
            )
            tokens = tokens_of(how, steps, forget, retain, alternates)
            tokens += self.scored(objective, how, steps)
            work = Work(objective, how, steps, forget, retain, alternates, self.seed)
            self.announce(self.plan(steps, Cost(tokens, seconds, work)))
        return fit(
            self.state,
            objective,
            how,
            forget=forget,
            retain=retain,
            holdout=self.split["holdout"],
            level=self.level,
            alternates=alternates,
            teacher=teacher,
            seed=self.seed,
            checkpoints=self.checkpoints,
            progress=self.progress,
        )

    def scored(self, objective: Objective, training: TrainingOptions, steps: int) -> float:
        """Return what scoring records before training takes, in tokens of training."""
        alternates = self.split.get("alternate", ()) if "alternates" in objective.needs else ()
        parts = self.split["forget"], self.split["retain"], alternates
        old = scored_before(objective, training, steps, *parts)
        return old + FORWARD * (self.level.scored if self.level else 0)

    def plan(self, steps: int, cost: Cost, *notes: str, usual: float = 1.0) -> TrainingPlan:
        """Say what is about to run, and what it takes beside retraining.

        Args:
            steps: optimizer steps at most.
            cost: what they take.
            *notes: what the user should know, beside the job's own notes.
            usual: the part of them that is expected to run.

        Returns:
            The plan, with a word on retraining where an approximate method is no cheaper.
        """
        method = self.resolved.method
        plan = TrainingPlan(
            f"{method.name}: {method.summary}",
            steps,
            cost.seconds,
            (*self.notes, *notes),
            cost.tokens,
            self._retraining(),
            usual,
            cost.work,
        )
        return plan if method.kind == "exact" else replace(plan, notes=(*plan.notes, *plan.advice))

    def _retraining(self) -> Cost | None:
        """Return what training again without the records takes; None where nobody knows."""
        retain, own = self.split["retain"], self.resolved.method.extra
        exact = self.resolved.method.kind == "exact"
        given = {k: v for k, v in self.resolved.given.items() if exact and k not in own}
        try:
            training = same_training(self.parent, given, "retrain", self.original)
        except (LineageError, OptionError):
            return None
        if not retain:
            return None
        steps = total_steps(training, len(retain))
        plain = Objective(retain=NLL())
        seconds = expected_seconds(self.state, plain, training, steps, retain=retain)
        return Cost(tokens_of(training, steps, (), retain), seconds)

    def fresh_adapter(self) -> ModelState:
        """Open the base again, with a new adapter shaped like this job's one, or its start.

        Returns:
            A trainable state.

        Raises:
            ModelError: if this job's adapter lies on top of others, or no such adapter can be
                trained here.
        """
        if self.state.frozen:
            raise ModelError(
                f"{self.resolved.method.name}: not possible on top of other adapters; merge them "
                "into the base first"
            )
        assert self.state.adapter is not None
        fresh = adapter_like(self.opening.open(self.state.name), self.state.adapter, self.seed)
        if self.start is not None:
            load_trained(fresh, self.start)
        return fresh


def run_loss(job: Job) -> tuple[ModelState, Fit]:
    """Run a method that is a forget loss with or without a retain loss."""
    retain = job.split["retain"] if job.resolved.retain is not None else ()
    return job.state, job.fit(job.objective(), forget=job.split["forget"], retain=retain)


def run_hidden(job: Job) -> tuple[ModelState, Fit]:
    """Run a method whose losses look at the output of one block.

    Where `layer` is −1, it is 7/32 of the way up, as in RMU (block 7 of 32). Unless told otherwise
    only that block and the two below are trained, as there: blocks above get no gradient. An
    adapter that trains none of those three is met at the nearest it does train (`_near_trained`).

    Args:
        job: the job.

    Returns:
        (the job's state, trained; what training did).

    Raises:
        OptionError: if the model has no such block, or the retain loss looks at another.
    """
    resolved, notes = placed(job.resolved, job.state.model)
    return run_loss(replace(job, resolved=resolved, notes=(*job.notes, *notes)))


def placed(resolved: Resolved, model: Any) -> tuple[Resolved, tuple[str, ...]]:
    """Settle at which block the losses of `run_hidden` look, and which blocks it trains.

    Args:
        resolved: the method.
        model: a causal language model, with what can train.

    Returns:
        (the method with numbers for its blocks, what the user should know).

    Raises:
        OptionError: if the model has no such block.
    """
    depth = len(blocks_of(model))
    chosen = resolved.forget.layer
    layer, notes = chosen, tuple[str, ...]()
    if chosen == -1:
        layer = usual = round(depth * 7 / 32)
        if resolved.training.train_layers is None:
            layer = _near_trained(layer, blocks_that_can_train(model))
        if layer != usual:
            notes = (f"layer: block {layer}, since block {usual}, the usual one, trains nothing",)
    if not 0 <= layer < depth:
        raise OptionError(
            f"{resolved.method.name}: layer {layer} does not exist: the model has {depth} blocks, "
            f"0 to {depth - 1}"
        )
    forget, retain = (
        replace(loss, layer=layer) if isinstance(loss, HiddenLoss) else loss  # type: ignore[type-var]
        for loss in (resolved.forget, resolved.retain)
    )
    training = resolved.training
    if training.train_layers is None:
        training = training.model_copy(update={"train_layers": f"{max(0, layer - 2)}-{layer}"})
    return replace(resolved, forget=forget, retain=retain, training=training), notes


def _near_trained(layer: int, trained: Sequence[int]) -> int:
    """Return a block such that it or one of the two below trains, as near to one as can be.

    Args:
        layer: the block wanted.
        trained: the blocks that can train, in order; empty where none can.

    Returns:
        The block itself where that holds, else the third of those that train (or the last, of
        fewer) above it, else the last below it.
    """
    if not trained or any(layer - 2 <= block <= layer for block in trained):
        return layer
    above = [block for block in trained if block > layer]
    return min(above[0] + 2, above[-1]) if above else trained[-1]
