"""What a training run will take, from a few timed forward passes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from unlearn.data.tokenization import Example
from unlearn.model.blocks import only_blocks
from unlearn.model.frozen import FrozenLower
from unlearn.model.frozen_outputs import OUTPUTS
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState
from unlearn.training.fitting import blocks_that_train, seen_by
from unlearn.training.frozen_blocks import frozen_once
from unlearn.training.kernels import deterministic_kernels
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.wrappers import wrappers_of

__all__ = ["expected_seconds"]


def expected_seconds(
    state: ModelState,
    objective: Objective,
    training: TrainingOptions,
    steps: int,
    *,
    forget: Sequence[Example] = (),
    retain: Sequence[Example] = (),
) -> float:
    """Estimate the wall time of a training run from timed forward passes.

    A backward pass costs about twice a forward one, so that a record costs three forwards each time
    it is trained on. Frozen blocks that are computed once for each record (`cache_frozen`) cost one
    forward the first time, in this process and on this base, and nothing later.

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
    passes = steps * (rows + training.batch_size * (training.forget_passes - 1))
    seen = seen_by(training, steps, forget, retain)
    wrappers = wrappers_of(training, objective, state, retain=bool(retain))
    _seconds(state, some[:1])  # the first call pays for warming up
    whole = _seconds(state, some)
    with (
        deterministic_kernels(not forget),
        only_blocks(state.model, blocks_that_train(training, state)),
        frozen_once(state, training, objective, wrappers, seen) as through,
    ):
        if through.lower is None:
            return 3 * passes * whole
        above = min(whole, _seconds(state, some, without=through.lower))
        once = sum(min(through.lower.unknown(part), count) for part, count in seen)
    return 3 * passes * above + once * (whole - above)


def _seconds(
    state: ModelState, examples: Sequence[Example], without: FrozenLower | None = None
) -> float:
    """Return the seconds that a record takes forward, with all blocks or without the lower ones."""
    left_out = without.left_out(state.model) if without else contextlib.nullcontext()
    with OUTPUTS.resting(), left_out:
        start = time.perf_counter()
        score_examples(state.model, state.head, examples)
        return (time.perf_counter() - start) / max(1, len(examples))
