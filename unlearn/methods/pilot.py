"""Pilot: a briefly retrained adapter shows the old one how to answer as if it had never seen them.

What an adapter that never saw the records would say about them can be learned at a fraction of the
price of training it: after a few epochs on the retained records it already ranks unseen records,
and guesses their words, as it will at the end. What still changes is how sure it is of itself; a
single number, the sharpness of its predictions, which the holdout tells. So:

1. train a fresh adapter (the *pilot*) on the retained records for `pilot_epochs`, with the settings
   of the original training;
2. find the sharpness s at which the pilot's loss on the holdout is that of the adapter to clean;
3. train the adapter to predict the forget records as the sharpened pilot does (`MatchTeacher`),
   together with the retained ones as they are (`NLL`).

This project's own. Related: bad teachers (2205.08096) and retraining-based distillation; what is
new here is the pilot's brevity, the sharpening, and the term that matches the true token.

The last step trains with Muon, which moves every direction of a matrix equally far, and with a
short momentum (.5). In its first steps all gradient comes from the forget records, since the
retained ones are known by heart; a long momentum carries that direction on after it has begun to
hurt them.

It does not forget deeply: a few steps of training on some of the forgotten records bring the others
back faster than in references, and so does scaling the adapter down. `docs/methods.md` has the
measurements, and what was tried and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearn.config import validated
from unlearn.data.tokenization import Example
from unlearn.errors import LineageError
from unlearn.losses import NLL
from unlearn.methods.defaults import original_training
from unlearn.methods.job import Job
from unlearn.methods.plans import Cost, tokens_of
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState
from unlearn.training.expected_time import expected_seconds
from unlearn.training.fitting import Fit, fit, total_steps
from unlearn.training.memory import Work
from unlearn.training.optimizers import all_matrices
from unlearn.training.options import TrainingOptions
from unlearn.training.stages import counting
from unlearn.training.trainer import Objective, Teacher

__all__ = ["run", "sharpness_for", "teacher_of"]

# Factors on the pilot's logits among which the right one lies: a model that knows its training data
# by heart is some two to three times as sure of itself as one after a few epochs.
_SHARPNESS = tuple(float(s) for s in np.geomspace(1.0, 8.0, 25))


def run(job: Job) -> tuple[ModelState, Fit]:
    """Train a pilot, sharpen it, and match it.

    The pilot is trained as the adapter was, as far as the lineage tells; where it does not, at the
    learning rate of which the one given is the method's part.

    Args:
        job: the job; options `pilot_epochs`, `divergence`, `level`.

    Returns:
        (the job's state, trained; what both trainings did together).

    Raises:
        ModelError: if the adapter lies on top of others.
        LineageError: if a full fine-tune has no lineage that names its base.
    """
    resolved, training = job.resolved, _training(job)
    n = len(job.split["forget"])
    known = (job.original or original_training(job.parent)).options
    assert resolved.training.learning_rate is not None
    rate = resolved.training.learning_rate / resolved.method.rate
    short = validated(
        TrainingOptions,
        {"learning_rate": rate, "batch_size": 16}
        | {k: v for k, v in known.items() if k in _AS_TRAINED}
        | {"epochs": resolved.extra["pilot_epochs"], "stop": "none"},
        "pilot",
    )
    forget, retain = job.split["forget"], job.split["retain"]
    total = total_steps(short, len(retain)) + total_steps(training, n)
    _announce(job, short, training, total)
    pilot = _fresh(job)
    first = fit(
        pilot,
        Objective(retain=NLL()),
        short,
        retain=retain,
        seed=job.seed,
        progress=counting(job.progress, 0, total),
    )
    sharpness = 1.0
    if job.split["holdout"]:
        level = _level(job.state, job.split["holdout"])
        sharpness = sharpness_for(pilot, job.split["holdout"], level)
    teacher = teacher_of(pilot, forget)
    del pilot
    second = replace(job, announce=None, progress=counting(job.progress, first.steps, total)).fit(
        job.objective(replace(resolved.forget, sharpness=sharpness)),
        forget=forget,
        retain=retain if resolved.retain is not None else (),
        training=training,
        teacher=teacher,
    )
    whole = replace(
        second,
        steps=first.steps + second.steps,
        planned_steps=first.planned_steps + second.planned_steps,
        seconds=first.seconds + second.seconds,
        tokens=first.tokens + second.tokens,
    )
    return job.state, whole


# Where something else than matrices trains, AdamW takes Muon's place, at this part of the original
# learning rate: at the full one more of the retained records were lost.
_ADAMW_RATE = 0.8


def _training(job: Job) -> TrainingOptions:
    """Return how the adapter itself is trained: with AdamW where Muon cannot be used."""
    chosen, given = job.resolved.training, job.resolved.given
    if chosen.optimizer == "muon" and ("optimizer" in given or all_matrices(job.state.model)):
        return chosen
    update: dict[str, Any] = {"optimizer": "adamw"}
    if given.get("learning_rate") is None and chosen.learning_rate:
        update["learning_rate"] = chosen.learning_rate * _ADAMW_RATE / job.resolved.method.rate
    return chosen.model_copy(update=update)


# What a pilot takes over from the original training; schedules are made for its full length.
_AS_TRAINED = (
    "learning_rate",
    "batch_size",
    "micro_batch_size",
    "optimizer",
    "momentum",
    "weight_decay",
    "max_grad_norm",
)


def _announce(job: Job, short: TrainingOptions, training: TrainingOptions, steps: int) -> None:
    """Tell the plan of both trainings before the first one starts."""
    if not job.announce:
        return
    forget, retain = job.split["forget"], job.split["retain"]
    notes = []
    if not job.split["holdout"]:
        notes.append(
            "without --holdout nobody knows how sure of itself a model that never saw the records "
            "would be: they will end up easier for the model than unseen ones"
        )
    first = total_steps(short, len(retain))
    plain = Objective(retain=NLL())
    seconds = expected_seconds(job.state, plain, short, first, retain=retain)
    seconds += expected_seconds(
        job.state, job.objective(), training, steps - first, forget=forget, retain=retain
    )
    tokens = tokens_of(short, first, (), retain)
    tokens += tokens_of(training, steps - first, forget, retain)
    tokens += job.scored(job.objective(), training, steps - first)
    work = Work(job.objective(), training, steps - first, forget, retain, seed=job.seed)
    job.announce(job.plan(steps, Cost(tokens, seconds, work), *notes))


def _fresh(job: Job) -> ModelState:
    """Open what the original training began with."""
    if job.state.kind != "full":
        return job.fresh_adapter()
    if job.parent is None:
        raise LineageError(
            "pilot: this fully fine-tuned model has no lineage that names its base, and a pilot "
            "starts from there; use another method, or train with `unlearn finetune --full`"
        )
    return job.opening.open(job.parent.base.name, trainable=True)


def _level(state: ModelState, examples: Sequence[Example]) -> float:
    """Return the mean token loss of some records."""
    statistics, _ = score_examples(state.model, state.head, examples)
    return -float(statistics.log_prob.double().mean())


def sharpness_for(pilot: ModelState, holdout: Sequence[Example], level: float) -> float:
    """Return the factor on the pilot's logits at which its mean token loss on records is a level.

    Sharpening by s is sampling at temperature 1/s, so one scoring pass gives the loss at every
    factor of a grid; between two of them the loss is taken as linear in log s.

    Args:
        pilot: the pilot.
        holdout: records no model saw.
        level: the loss wanted, in nats a token.

    Returns:
        A factor in [1, 8]: 1 where the pilot is as unsure as wanted already.
    """
    samplers = [(1 / s, 0) for s in _SHARPNESS]
    statistics, _ = score_examples(pilot.model, pilot.head, holdout, samplers=samplers)
    losses = [-float(statistics.sampled[key].double().mean()) for key in samplers]
    below = [i for i, loss in enumerate(losses) if loss <= level]
    if not below:
        return _SHARPNESS[0]
    i = below[-1]
    if i + 1 == len(losses):
        return _SHARPNESS[-1]
    part = (level - losses[i]) / (losses[i + 1] - losses[i])
    return float(_SHARPNESS[i] * (_SHARPNESS[i + 1] / _SHARPNESS[i]) ** part)


def teacher_of(model: ModelState, examples: Sequence[Example]) -> Teacher:
    """Let a model predict some records once, and keep what it takes to do so again.

    Args:
        model: the teacher.
        examples: the records it will be asked about.

    Returns:
        Its hidden states at the target tokens, and its projection.
    """
    states: dict[int, Tensor] = {}

    def observe(batch: Sequence[int], hidden: Tensor) -> None:
        parts = torch.split(hidden, [examples[i].targets for i in batch])
        states.update({i: part.cpu() for i, part in zip(batch, parts, strict=True)})

    score_examples(model.model, model.head, examples, observe=observe)
    return Teacher(tuple(states[i] for i in range(len(examples))), model.head)
