"""Fit an objective: set up the stop rules and the cached reference, run the trainer, report."""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unlearn.data.tokenization import Example
from unlearn.errors import OptionError
from unlearn.model.blocks import blocks_of, only_blocks, parse_blocks
from unlearn.model.quiet import quiet
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState, load_trained
from unlearn.preemption import preemptible
from unlearn.processes import if_interrupted, world_size
from unlearn.training.frozen_blocks import frozen_once
from unlearn.training.kernels import deterministic_kernels
from unlearn.training.launched import check_split
from unlearn.training.levels import Level, mean_loss, record_losses, sample, unseen_level
from unlearn.training.loss_terms import Terms
from unlearn.training.objective import Objective, Teacher
from unlearn.training.optimizers import muon
from unlearn.training.options import TrainingOptions, total_steps
from unlearn.training.sampler import ALTERNATE, FORGET, RETAIN, Pairs, PairStream
from unlearn.training.stopping import WATCHING, Monitor, Rescoring, StopRules
from unlearn.training.tokens import FORWARD, scored_before, tokens_of
from unlearn.training.trackers import tracking
from unlearn.training.trainer import UnlearnTrainer, latest_checkpoint
from unlearn.training.wrappers import wrappers_of

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = [
    "Fit",
    "blocks_that_train",
    "fit",
    "mean_loss",
    "record_losses",
    "sample",
    "seen_by",
    "total_steps",
    "what_is_kept",
]


@dataclass(frozen=True)
class Fit:
    """What a training run did.

    Attributes:
        steps: optimizer steps done.
        planned_steps: optimizer steps at most.
        seconds: wall time.
        tokens: tokens that went through forward and backward, on all processes; those that were
            only scored, to know old losses and when to stop, count a third.
        stopped: the rule that ended the run, or None when it ran all its steps.
        rules: what would have ended it, in words.
        training: how it was trained.
        notes: what the user should know.
        deterministic: whether deterministic kernels were asked for.
        history: Trainer's log.
        recipe: where it was not all of the original training, how the original trained
            (`training`) and this one (`stages`).
        trail: what decided how it was trained.
    """

    steps: int
    planned_steps: int
    seconds: float
    tokens: int
    stopped: str | None
    rules: str
    training: TrainingOptions
    notes: tuple[str, ...] = ()
    deterministic: bool = False
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    recipe: Mapping[str, Any] = field(default_factory=dict, repr=False)
    trail: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def cost(self) -> dict[str, Any]:
        """Return what the lineage stores of the cost."""
        return {"seconds": round(self.seconds, 3), "steps": self.steps, "tokens": self.tokens}


def seen_by(
    training: TrainingOptions,
    steps: int,
    forget: Sequence[Example],
    retain: Sequence[Example],
    alternates: Sequence[Example] = (),
) -> tuple[tuple[Sequence[Example], int], ...]:
    """Return the examples of each role, and how many of them (with repeats) a run sees."""
    samples = steps * training.batch_size
    ratio = training.retain_ratio if forget else 1
    return (forget, samples), (retain, samples * ratio), (alternates, samples)


def blocks_that_train(training: TrainingOptions, state: ModelState) -> set[int] | None:
    """Return the blocks that may train (`train_layers`), None for all."""
    if training.train_layers is None:
        return None
    return parse_blocks(training.train_layers, len(blocks_of(state.model)))


def fit(
    state: ModelState,
    objective: Objective,
    training: TrainingOptions,
    *,
    forget: Sequence[Example] = (),
    retain: Sequence[Example] = (),
    holdout: Sequence[Example] = (),
    level: Level | None = None,
    alternates: Sequence[Example] = (),
    seed: int = 0,
    teacher: Teacher | None = None,
    checkpoints: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train a state in place on an objective.

    Plain training, where nothing is forgotten, asks for deterministic kernels: who has the same
    records can train again and must get the same weights.

    Args:
        state: an opened state with trainable weights.
        objective: what to minimise.
        training: how.
        forget: examples to forget; empty for plain training.
        retain: examples to keep, or to train on.
        holdout: examples the model never saw: they give the forget loss to stop at.
        level: that loss, where it was measured before.
        alternates: what to answer instead, the same number for each forget record.
        seed: of data order and dropout.
        teacher: for losses that need one.
        checkpoints: folder for checkpoints; a run resumes from the newest complete one there.
        progress: called with (steps done, steps planned) after each step.

    Returns:
        What was done.

    Raises:
        OptionError: if `batch_size` cannot be split as asked, a wrapper does not fit, or weights
            that are split over processes cannot be trained so.
        TrainingError: if the loss is not finite or a trainable tensor gets no gradient.
    """
    from transformers import set_seed

    check_split(state, training)
    set_seed(seed)
    steps = total_steps(training, len(forget) or len(retain))
    pairs = Pairs(forget, retain, alternates)
    stream = pairs.stream(steps * training.batch_size, seed, training.retain_ratio)
    terms = _terms(state, objective, pairs, stream, teacher)
    monitor, scored = _monitor(state, training, pairs, holdout, level)
    scored += scored_before(objective, training, steps, forget, retain, alternates)
    wrappers = wrappers_of(training, objective, state, retain=bool(retain))
    seen = seen_by(training, steps, forget, retain, alternates)
    # Trainer insists on a folder, also when nothing is to be kept in it
    with (
        tempfile.TemporaryDirectory(prefix="unlearn-") as scratch,
        only_blocks(state.model, blocks_that_train(training, state)),
        deterministic_kernels(not forget),
        frozen_once(state, training, objective, wrappers, seen) as passes,
        _recomputing(state, training.gradient_checkpointing),
        quiet(calls_back=True),
    ):
        save_steps = training.save_steps if checkpoints else None
        folder = checkpoints or Path(scratch)
        trainer = UnlearnTrainer(
            replace(terms, run=passes.run),
            _arguments(training, steps, folder, save_steps, state, seed),
            pairs,
            stream,
            wrappers=wrappers,
            monitor=monitor,
            optimizer=muon(state.model, training) if training.optimizer == "muon" else None,
            progress=progress,
        )
        seconds = _run(trainer, state, checkpoints)
    state.model.eval()
    return Fit(
        steps=trainer.state.global_step,
        planned_steps=steps,
        seconds=seconds,
        tokens=trainer.tokens_trained + round(scored),
        stopped=trainer.stopped,
        rules=monitor.rules.describe() if monitor else "all epochs",
        training=training,
        notes=passes.notes,
        deterministic=not forget,
        history=trainer.state.log_history,
    )


def _terms(
    state: ModelState,
    objective: Objective,
    pairs: Pairs,
    stream: PairStream,
    teacher: Teacher | None,
) -> Terms:
    """Make ready what the losses compare with."""
    if objective.needs & {"before_logits", "before_hidden"}:
        state.prepare_reference("before")
    if "base_logits" in objective.needs:
        state.prepare_reference("base")
    log_probs = dict[int, torch.Tensor]()
    for role, loss, _ in objective.terms():
        if "reference_log_probs" in loss.needs:
            parts = (FORGET, ALTERNATE) if role == FORGET else (role,)
            log_probs |= {
                part: _sums(state, pairs.of(part), stream.used(part))
                for part in parts
                if pairs.of(part)
            }
    return Terms(state, objective, log_probs, teacher)


def _run(trainer: UnlearnTrainer, state: ModelState, checkpoints: Path | None) -> float:
    """Train, from the newest checkpoint where there is one; return the seconds.

    Where checkpoints are kept SIGTERM waits for the end of the step, and for one more of them.
    """
    resume = latest_checkpoint(checkpoints) if checkpoints else None
    if resume:
        load_trained(state, resume)  # while no weights are split over processes
    start = time.perf_counter()
    with (
        if_interrupted(functools.partial(what_is_kept, checkpoints)),
        preemptible() if checkpoints else contextlib.nullcontext() as trainer.preemption,
    ):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = time.perf_counter() - start
    if checkpoints:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return seconds


def what_is_kept(checkpoints: Path | None) -> str:
    """Say what an interruption leaves of a training run."""
    if checkpoints is None:
        return "the training begins anew (-o save_steps=N would keep checkpoints to go on from)"
    newest = latest_checkpoint(checkpoints)
    if newest is None:
        return "no checkpoint was due yet, so that the training begins anew with the same command"
    step = newest.name.rpartition("-")[2]
    return f"the training goes on from its checkpoint at step {step} with the same command"


@contextlib.contextmanager
def _recomputing(state: ModelState, on: bool) -> Iterator[None]:
    """Recompute activations in the backward pass."""
    if on:
        state.set_checkpointing(True)
    try:
        yield
    finally:
        if on:
            state.set_checkpointing(False)


def _arguments(
    training: TrainingOptions,
    steps: int,
    folder: Path,
    save_steps: int | None,
    state: ModelState,
    seed: int,
) -> TrainingArguments:
    """Say it in Trainer's words."""
    from transformers import TrainingArguments

    if training.learning_rate is None:
        raise OptionError("learning_rate is open: set it to a number")
    constant = training.schedule == "constant"
    micro, accumulate = _share(training)
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulate,
        max_steps=steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type="constant_with_warmup" if constant else training.schedule,
        warmup_steps=training.warmup_steps,
        adam_beta1=training.momentum,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 500,
        save_total_limit=2,
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=tracking().report_to,
        run_name=tracking().run,
        remove_unused_columns=False,
        dataloader_pin_memory=state.device.type == "cuda",
        use_cpu=state.device.type == "cpu",
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if state.device.type == "cpu" and world_size() > 1 else None,
        seed=seed,
        data_seed=seed,
    )


def _share(training: TrainingOptions) -> tuple[int, int]:
    """Split a step: (samples of one forward pass of one process, how many of them it makes).

    `batch_size` counts the samples of all processes together, so the same command means the same
    on one process and on several.
    """
    batch, processes = training.batch_size, world_size()
    micro = training.micro_batch_size or max(1, batch // processes)
    if batch % (micro * processes):
        raise OptionError(
            f"batch_size {batch} cannot be split into {processes} process(es) × batches of {micro} "
            "(micro_batch_size)"
        )
    return micro, batch // (micro * processes)


def _sums(state: ModelState, examples: Sequence[Example], used: Sequence[int]) -> torch.Tensor:
    """Return Σ_t log p of each example that is used, float32 [R]; NaN of the others."""
    statistics, offsets = score_examples(state.model, state.head, [examples[i] for i in used])
    owner = torch.arange(len(used)).repeat_interleave(torch.from_numpy(np.diff(offsets)))
    sums = torch.zeros(len(used)).index_add(0, owner, statistics.log_prob)
    return torch.full((len(examples),), torch.nan).index_copy(0, torch.tensor(used), sums)


def _monitor(
    state: ModelState,
    training: TrainingOptions,
    pairs: Pairs,
    holdout: Sequence[Example],
    level: Level | None,
) -> tuple[Monitor | None, float]:
    """Score what the stop rules must know, once, before training; return what that took, too."""
    forget, retain = pairs.of(FORGET), pairs.of(RETAIN)
    if not forget:
        return None, 0
    given, scored = level, level.scored if level else 0
    if training.stop == "none":
        return Monitor(StopRules(), len(forget)), scored * FORWARD
    some = sample(forget)
    tokens = sum(len(example.ids) for example in some)
    if training.stop_loss is not None:
        level = Level(training.stop_loss, "stop_loss", mean_loss(state, some), tokens)
    elif training.stop == "holdout" and holdout:
        loss, tokens_of_holdout = mean_loss(state, holdout), sum(len(e.ids) for e in holdout)
        trained = mean_loss(state, some)
        level = Level(loss, "the mean of the holdout", trained, tokens + tokens_of_holdout)
    elif level is None:
        level = unseen_level(state, forget, holdout)
    if level is not None and level is not given:
        scored += level.scored
    retain_level = mean_loss(state, sample(retain)) + training.retain_budget if retain else None
    scored += sum(len(example.ids) for example in sample(retain))
    if level is None:
        return Monitor(StopRules(retain_level=retain_level), len(forget)), scored * FORWARD
    step = tokens_of(training, 1, forget, retain, pairs.of(ALTERNATE))
    every = max(1, math.ceil(tokens * FORWARD / (WATCHING * step)))
    rescoring = Rescoring(lambda: mean_loss(state, some), level.trained, every, tokens)
    rules = StopRules(level.loss, level.source, retain_level)
    return Monitor(rules, len(forget), rescoring), scored * FORWARD
