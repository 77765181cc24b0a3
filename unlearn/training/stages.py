"""Train in several stages, one after another on the same weights, each with its own schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from unlearn.data.tokenization import Example
from unlearn.losses import NLL
from unlearn.model.state import ModelState
from unlearn.training.fitting import Fit, fit, total_steps
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions

__all__ = ["combined", "counting", "fit_stages", "stage_seed", "steps_of"]

Progress = Callable[[int, int], None]

_APART = 7919
"""Distance of the seeds of two stages: farther than those of models that are compared."""


def stage_seed(seed: int, stage: int) -> int:
    """Return the seed of a stage: that of the run for the first one, so that one stage is `fit`."""
    return seed + _APART * stage


def steps_of(stages: Sequence[TrainingOptions], records: int) -> int:
    """Return the optimizer steps of all stages on so many records."""
    return sum(total_steps(training, records) for training in stages)


def fit_stages(
    state: ModelState,
    stages: Sequence[TrainingOptions],
    retain: Sequence[Example],
    *,
    seed: int,
    progress: Progress | None = None,
) -> Fit:
    """Train a state in place on records, stage after stage.

    A stage has an optimizer, a schedule and an order of records of its own; one stage alone is what
    `fit` does.

    Args:
        state: an opened state with trainable weights.
        stages: how each stage is trained.
        retain: the records.
        seed: of the first stage, see `stage_seed`.
        progress: called with (steps done, steps planned) of all stages.

    Returns:
        What they did together.
    """
    total, fits = steps_of(stages, len(retain)), list[Fit]()
    for stage, training in enumerate(stages):
        before = sum(each.steps for each in fits)
        fits.append(
            fit(
                state,
                Objective(retain=NLL()),
                training,
                retain=retain,
                seed=stage_seed(seed, stage),
                progress=counting(progress, before, total),
            )
        )
    return combined(fits)


def counting(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Let several trainings fill one progress bar."""
    return progress and (lambda step, _: progress(before + step, total))


def combined(fits: Sequence[Fit]) -> Fit:
    """Return what several trainings did together, with the settings of the last."""
    return replace(
        fits[-1],
        steps=sum(each.steps for each in fits),
        planned_steps=sum(each.planned_steps for each in fits),
        seconds=sum(each.seconds for each in fits),
        tokens=sum(each.tokens for each in fits),
        notes=tuple(dict.fromkeys(note for each in fits for note in each.notes)),
    )
