"""DP-SGD's loop: Poisson sampling, clipped gradients, noise, then any optimizer (1607.00133).

What the optimizer sees of the records in a step is g = (Σ_u clipped g_u + σ·C·z) / B: u runs over
the units that took part, z is standard normal, and B is the number of units *expected* in a step,
the same whatever the records are. All that follows, AdamW's moments among it, is made of the g
alone, and needs no more privacy than they do.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlearn.data.tokenization import Example
from unlearn.errors import OptionError, OutputError, TrainingError
from unlearn.files import staged_folder
from unlearn.model.blocks import only_blocks
from unlearn.model.quiet import quiet
from unlearn.model.save import load_trained
from unlearn.model.state import ModelState
from unlearn.preemption import preemptible
from unlearn.processes import if_interrupted
from unlearn.strict_json import read_json_file
from unlearn.training.fitting import Fit, blocks_that_train, what_is_kept
from unlearn.training.kernels import deterministic_kernels
from unlearn.training.options import TrainingOptions
from unlearn.training.private.gradients import UnitGradients, unit_gradients
from unlearn.training.private.randomness import gaussian, poisson_sample
from unlearn.training.trainer import STATE_FILE, latest_checkpoint

__all__ = ["Mechanism", "fit_privately", "noisy_gradient"]

_OPTIMIZER_FILE = "optimizer.pt"


@dataclass(frozen=True)
class Mechanism:
    """The Poisson-subsampled Gaussian mechanism of each step.

    Attributes:
        units: how many there are; a public number.
        expected: of them in a step, B; a public number.
        noise: σ, standard deviation over the clipping norm.
        clip: C, the norm that one unit's gradient has at most.
        steps: of the whole training.
        secret: 32 bytes that nobody may know from whom the records are hidden.
    """

    units: int
    expected: int
    noise: float
    clip: float
    steps: int
    secret: bytes = field(repr=False)

    @property
    def rate(self) -> float:
        """With what probability a unit takes part in a step, q = B / units."""
        return self.expected / self.units

    def accounted(self, steps: int) -> list[float]:
        """Return what the accountant must know of some steps: σ, q and their number."""
        return [self.noise, self.rate, steps]


def noisy_gradient(
    gradients: UnitGradients, units: Sequence[Sequence[Example]], mechanism: Mechanism, step: int
) -> tuple[Tensor, int]:
    """Return g of one step, and how many tokens it took.

    Args:
        gradients: computes those of units.
        units: records of every unit.
        mechanism: what is done to them.
        step: its number; the first is 0.

    Returns:
        (float32 [weights], tokens).
    """
    chosen = poisson_sample(mechanism.secret, step, mechanism.units, mechanism.rate)
    part = [units[i] for i in chosen]
    total = gradients.clipped_sum(part, mechanism.clip)
    noise = torch.from_numpy(gaussian(mechanism.secret, step, len(total)))
    total += mechanism.noise * mechanism.clip * noise.to(total)
    return total / mechanism.expected, sum(len(one.ids) for unit in part for one in unit)


def fit_privately(
    state: ModelState,
    units: Sequence[Sequence[Example]],
    training: TrainingOptions,
    mechanism: Mechanism,
    *,
    seed: int = 0,
    checkpoints: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train an adapter in place with differential privacy.

    Args:
        state: an opened state with a new adapter.
        units: the records of each unit; as many as the mechanism has.
        training: learning rate, schedule, momentum, weight decay, `micro_batch_size`, blocks.
        mechanism: sampling, clipping and noise.
        seed: of dropout alone.
        checkpoints: folder for checkpoints; a run resumes from the newest complete one there.
        progress: called with (steps done, steps planned) after each step.

    Returns:
        What was done.

    Raises:
        OptionError: if the learning rate is open.
        OutputError: if a checkpoint does not say what privacy was spent.
        TrainingError: if a gradient is not finite, or a weight has none of each record.
    """
    from transformers import set_seed

    if training.learning_rate is None:
        raise OptionError("learning_rate is open: set it to a number")
    assert len(units) == mechanism.units
    set_seed(seed)
    with (
        only_blocks(state.model, blocks_that_train(training, state)),
        deterministic_kernels(True),
        quiet(calls_back=True),
        unit_gradients(state, training.micro_batch_size or training.batch_size) as gradients,
        if_interrupted(partial(what_is_kept, checkpoints)),
        preemptible() if checkpoints else contextlib.nullcontext() as preemption,
    ):
        loop = _Loop(state, gradients, training, mechanism)
        resume = latest_checkpoint(checkpoints) if checkpoints else None
        if resume is not None:
            loop.resume(resume)
        start = time.perf_counter()
        while loop.done < mechanism.steps:
            loop.step(units)
            if progress:
                progress(loop.done, mechanism.steps)
            due = training.save_steps and loop.done % training.save_steps == 0
            asked = preemption is not None and preemption.asked
            if checkpoints and (due or asked):
                loop.save(checkpoints)
            if asked:
                break
        seconds = time.perf_counter() - start
    if checkpoints:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return Fit(
        steps=loop.done,
        planned_steps=mechanism.steps,
        seconds=seconds,
        tokens=loop.tokens,
        stopped=None,
        rules="all steps, whose number is fixed by the promise",
        training=training,
        deterministic=True,
    )


class _Loop:
    """What a private training is at: weights, optimizer, and how many steps are spent."""

    def __init__(
        self,
        state: ModelState,
        gradients: UnitGradients,
        training: TrainingOptions,
        mechanism: Mechanism,
    ) -> None:
        from transformers import get_scheduler

        self._state, self._gradients, self._mechanism = state, gradients, mechanism
        self._optimizer = torch.optim.AdamW(
            list(gradients.weights),
            lr=training.learning_rate or 0.0,
            betas=(training.momentum, 0.999),
            weight_decay=training.weight_decay,
        )
        constant = training.schedule == "constant"
        self._schedule = get_scheduler(
            "constant_with_warmup" if constant else training.schedule,
            self._optimizer,
            training.warmup_steps,
            mechanism.steps,
        )
        self.done = 0
        self.tokens = 0

    def step(self, units: Sequence[Sequence[Example]]) -> None:
        """Move the weights along one noisy gradient."""
        gradient, tokens = noisy_gradient(self._gradients, units, self._mechanism, self.done)
        if not bool(torch.isfinite(gradient).all()):
            raise TrainingError("a gradient is not finite: lower learning_rate; nothing was saved")
        weights = self._gradients.weights
        sizes = [weight.numel() for weight in weights]
        for weight, part in zip(weights, torch.split(gradient, sizes), strict=True):
            weight.grad = part.view_as(weight).to(weight.dtype)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self.done += 1
        self.tokens += tokens

    def save(self, folder: Path) -> None:
        """Keep a checkpoint, and remove the one before."""
        target = folder / f"checkpoint-{self.done}"
        generators: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if self._state.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self._state.device)
        with staged_folder(target, overwrite=True) as stage:
            self._state.save(stage)
            parts = {
                "optimizer": self._optimizer.state_dict(),
                "schedule": self._schedule.state_dict(),
                "generators": generators,
            }
            torch.save(parts, stage / _OPTIMIZER_FILE)
            facts = {"accountant": self._mechanism.accounted(self.done), "tokens": self.tokens}
            (stage / STATE_FILE).write_text(json.dumps(facts), encoding="utf-8")
        for old in folder.glob("checkpoint-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint, once it says what privacy was spent until then."""
        done = int(folder.name.rpartition("-")[2])
        try:
            facts = read_json_file(folder / STATE_FILE)
            parts = torch.load(folder / _OPTIMIZER_FILE, weights_only=True)
            same = facts["accountant"] == self._mechanism.accounted(done)
            tokens = int(facts["tokens"])
            self._optimizer.load_state_dict(parts["optimizer"])
            self._schedule.load_state_dict(parts["schedule"])
            generators = parts["generators"]
            torch.set_rng_state(generators["cpu"])
            if self._state.device.type == "cuda":
                torch.cuda.set_rng_state(generators["cuda"], self._state.device)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise OutputError(f"{_broken(folder)}: {type(error).__name__}") from error
        if not same or not 0 < done <= self._mechanism.steps:
            raise OutputError(f"{_broken(folder)}: its accountant tells of another training")
        load_trained(self._state, folder)
        self.done, self.tokens = done, tokens


def _broken(folder: Path) -> str:
    return (
        f"{folder} cannot be gone on with, as the privacy spent until then is not known (delete "
        "the folder of checkpoints to start afresh)"
    )
