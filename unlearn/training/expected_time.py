"""What a training run will take, from a few timed passes forward and backward."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import torch

from unlearn.data.tokenization import Example
from unlearn.losses import NLL
from unlearn.model.blocks import only_blocks
from unlearn.model.frozen import FrozenLower
from unlearn.model.frozen_outputs import OUTPUTS
from unlearn.model.state import ModelState
from unlearn.training.bucketing import length_groups
from unlearn.training.fitting import blocks_that_train, seen_by
from unlearn.training.frozen_blocks import frozen_once
from unlearn.training.kernels import deterministic_kernels
from unlearn.training.loss_terms import Terms
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.sampler import ALTERNATE, FORGET, RETAIN, collate_pairs
from unlearn.training.tokens import FORWARD, mean_length
from unlearn.training.wrappers import wrappers_of

__all__ = ["STEP", "expected_seconds"]

STEP = 6e-3
"""Seconds of a step that do not grow with its records: the optimizer, the loop around it. Measured
on one CPU core with the model that comes with the package."""

_LIVE = {"before_logits", "before_hidden", "base_logits"}


def expected_seconds(
    state: ModelState,
    objective: Objective,
    training: TrainingOptions,
    steps: int,
    *,
    forget: Sequence[Example] = (),
    retain: Sequence[Example] = (),
) -> float:
    """Estimate the wall time of a training run from a timed pass of a step's records.

    They go forward and backward once, as in plain training; no weight and no random state changes.
    A reference that is run in every step adds a forward pass of its rows. Frozen blocks that are
    computed once for each record (`cache_frozen`) cost one forward pass the first time, in this
    process and on this base, and nothing later.

    Args:
        state: the opened model, with the weights trainable that the run trains.
        objective: what is minimised.
        training: options.
        steps: optimizer steps.
        forget: examples to forget; empty for plain training.
        retain: examples to keep, or to train on.

    Returns:
        Seconds if all steps run.
    """
    pairs = bool(forget and retain)
    rows = training.batch_size * (1 + training.retain_ratio if pairs else 1)
    examples = [*forget, *retain]
    some = examples[:: max(1, len(examples) // rows)][:rows]
    more = training.forget_passes - 1 + _of_references(objective, training)
    passes = steps * (rows + training.batch_size * more)
    seen = seen_by(training, steps, forget, retain)
    wrappers = wrappers_of(training, objective, state, retain=bool(retain))
    with (
        deterministic_kernels(not forget),
        only_blocks(state.model, blocks_that_train(training, state)),
        frozen_once(state, training, objective, wrappers, seen) as through,
    ):
        _seconds(state, some[:1])  # the first call pays for warming up
        whole = _seconds(state, some)
        each, once = whole, 0.0
        if through.lower is not None:
            each = min(whole, _seconds(state, some, without=through.lower))
            unknown = sum(min(through.lower.unknown(part), count) for part, count in seen)
            once = unknown * (whole - each)
    longer = mean_length(examples) / mean_length(some)
    return longer * (passes * each + once) + steps * STEP


def _of_references(objective: Objective, training: TrainingOptions) -> float:
    """Return the passes of references in each step, relative to training on a batch."""
    live = [role for role, loss, _ in objective.terms() if loss.needs & _LIVE]
    return FORWARD * sum(1 if role == FORGET else training.retain_ratio for role in live)


def _seconds(
    state: ModelState, examples: Sequence[Example], without: FrozenLower | None = None
) -> float:
    """Return the seconds that a record takes to train on, with all blocks or without the lower."""
    batch = collate_pairs([{FORGET: (), ALTERNATE: (), RETAIN: list(enumerate(examples))}])
    counts = torch.tensor([[0, 0], [int(batch["target"].sum()), len(examples)], [0, 0]])
    terms = Terms(state, Objective(retain=NLL()), {}, None)
    left_out = without.left_out(state.model) if without else contextlib.nullcontext()
    on_cpu, mode = state.device.type == "cpu", state.model.training
    state.model.train()
    try:
        with torch.random.fork_rng(), OUTPUTS.resting(), left_out:
            start = time.perf_counter()
            for group in length_groups(batch) if on_cpu else [batch]:
                inputs = {name: part.to(state.device) for name, part in group.items()}
                term = terms.on(
                    state.model, inputs, counts.to(state.device), {(RETAIN, RETAIN): (None, None)}
                )
                torch.autograd.backward(term[RETAIN].total)
            if state.device.type == "cuda":
                torch.cuda.synchronize(state.device)
            return (time.perf_counter() - start) / max(1, len(examples))
    finally:
        state.model.train(mode)
        state.model.zero_grad(set_to_none=True)
