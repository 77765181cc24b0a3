"""Train in several stages, one after another on the same weights, each with its own schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from unlearn.data.tokenization import Example
from unlearn.losses import NLL
from unlearn.model.state import ModelState
from unlearn.training.fitting import Fit, fit, total_steps
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions

__all__ = [
    "StageOptions",
    "combined",
    "counting",
    "fit_stages",
    "go_part_of_the_way",
    "put_weights",
    "stage_seed",
    "steps_of",
    "trained_weights",
]

Progress = Callable[[int, int], None]

_APART = 7919
"""Distance of the seeds of two stages: farther than those of models that are compared."""


class StageOptions(TrainingOptions):
    """How a stage is trained, and how far the weights then go: less than whole after too much."""

    part: float = Field(
        1.0, gt=0, le=1, description="part of the way from the weights before to those after"
    )

    @classmethod
    def of(cls, training: TrainingOptions, part: float = 1.0) -> StageOptions:
        """Return a training as a stage."""
        return cls(**{**training.model_dump(), "part": part})

    @property
    def training(self) -> TrainingOptions:
        """How it is trained."""
        return TrainingOptions(**self.model_dump(exclude={"part"}))


def trained_weights(state: ModelState) -> dict[str, Tensor]:
    """Return a copy of the weights that train."""
    named = state.model.named_parameters()
    return {name: p.detach().clone() for name, p in named if p.requires_grad}


def put_weights(weights: Mapping[str, Tensor], state: ModelState) -> None:
    """Set the weights that train."""
    with torch.no_grad():
        for name, p in state.model.named_parameters():
            if name in weights:
                p.copy_(weights[name])


def go_part_of_the_way(state: ModelState, before: Mapping[str, Tensor], part: float) -> None:
    """Set each weight w that trains to w₀ + part·(w − w₀), w₀ what it was before."""
    with torch.no_grad():
        for name, p in state.model.named_parameters():
            if name in before:
                p.copy_(torch.lerp(before[name], p, part))


def stage_seed(seed: int, stage: int) -> int:
    """Return the seed of a stage: that of the run for the first one, so that one stage is `fit`."""
    return seed + _APART * stage


def steps_of(stages: Sequence[TrainingOptions], records: int) -> int:
    """Return the optimizer steps of all stages on so many records."""
    return sum(total_steps(training, records) for training in stages)


def fit_stages(
    state: ModelState,
    stages: Sequence[StageOptions],
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
    for number, stage in enumerate(stages):
        begun = trained_weights(state) if stage.part < 1 else {}
        before = sum(each.steps for each in fits)
        fits.append(
            fit(
                state,
                Objective(retain=NLL()),
                stage.training,
                retain=retain,
                seed=stage_seed(seed, number),
                progress=counting(progress, before, total),
            )
        )
        go_part_of_the_way(state, begun, stage.part)
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
