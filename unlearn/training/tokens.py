"""What a run takes, in tokens that go forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unlearn.data.tokenization import Example
from unlearn.training.options import TrainingOptions

if TYPE_CHECKING:
    from unlearn.training.objective import Objective

__all__ = ["FORWARD", "mean_length", "scored_before", "tokens_of"]

FORWARD = 1 / 3
"""What a token costs that goes forward only: a backward pass costs about twice a forward one."""


def tokens_of(
    training: TrainingOptions,
    steps: int,
    forget: Sequence[Example],
    retain: Sequence[Example],
    alternates: Sequence[Example] = (),
) -> float:
    """Return the tokens that go forward and backward in a number of steps.

    Args:
        training: options.
        steps: optimizer steps.
        forget: examples to forget; empty for plain training.
        retain: examples to keep, or to train on.
        alternates: what to answer instead.

    Returns:
        Tokens, from the mean length of each part.
    """
    rows = steps * training.batch_size
    if not forget:
        return rows * mean_length(retain)
    each = training.forget_passes * mean_length(forget) + mean_length(alternates)
    return rows * (each + training.retain_ratio * mean_length(retain))


def scored_before(
    objective: Objective,
    training: TrainingOptions,
    steps: int,
    forget: Sequence[Example],
    retain: Sequence[Example],
    alternates: Sequence[Example] = (),
) -> float:
    """Return what it takes to score the records whose old log-probabilities a loss compares with.

    All records to forget and their alternates are scored, and as many of those to keep as the run
    uses, n = min(R, steps · batch · ratio).

    Args:
        objective: the losses.
        training: options.
        steps: optimizer steps.
        forget: examples to forget.
        retain: examples to keep.
        alternates: what to answer instead.

    Returns:
        Tokens, a third of those scored.
    """
    tokens = 0.0
    if objective.forget is not None and "reference_log_probs" in objective.forget.needs:
        tokens += sum(len(example.ids) for example in [*forget, *alternates])
    if objective.retain is not None and "reference_log_probs" in objective.retain.needs:
        used = min(len(retain), steps * training.batch_size * training.retain_ratio)
        tokens += used * mean_length(retain)
    return tokens * FORWARD


def mean_length(examples: Sequence[Example]) -> float:
    """Return the mean number of tokens of some examples; 0 without any."""
    return sum(len(example.ids) for example in examples) / max(1, len(examples))
