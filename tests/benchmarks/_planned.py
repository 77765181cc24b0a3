"""What a plan says a training holds at its peak, beside what it holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from _measure import peak_bytes
from _steps import Setting, opened

from unlearn.model.held import bytes_of
from unlearn.model.lm_head import unwrapped
from unlearn.model.opening import Opening
from unlearn.model.weightless import weightless
from unlearn.training.fitting import fit
from unlearn.training.memory import Work, needs_of
from unlearn.training.objective import Objective
from unlearn.training.options import LoraOptions, TrainingOptions


@dataclass(frozen=True)
class Case:
    """A training of a few steps on a random Llama.

    Attributes:
        name: in the table.
        setting: the model and its records.
        objective: what is minimised.
        options: of training, beside those of a few steps.
    """

    name: str
    setting: Setting
    objective: Objective
    options: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Peaks:
    """Bytes of tensors at the peak of a training.

    Attributes:
        planned: by the plan, of which `weights` are the model and its adapters.
        measured: of the training, above the model that it is given.
        weights: of that model.
        planned_weights: the same by the plan.
    """

    planned: int
    measured: int
    weights: int
    planned_weights: int

    @property
    def whole(self) -> float:
        """Planned ÷ measured."""
        return self.planned / (self.measured + self.weights)

    @property
    def beyond(self) -> float:
        """The same of what is held beside the model."""
        return (self.planned - self.planned_weights) / self.measured


def peaks(case: Case) -> Peaks:
    """Plan a training from its model's configuration alone, then train and measure.

    The allocator's peak is that of the whole of `fit`: old losses, steps, optimizer.
    """
    setting = case.setting
    examples = setting.examples()
    forget, retain = examples[: setting.rows], examples[setting.rows :]
    if case.objective.forget is None:
        forget = []
    steps = {"max_steps": 3, "batch_size": setting.rows, "learning_rate": 1e-6, "stop": "none"}
    training = TrainingOptions(**steps | dict(case.options))
    with opened(setting) as state:
        folder = state.folder
        unwrapped(state.model).config.save_pretrained(folder)
        kind = str(setting.dtype).rpartition(".")[2]
        lora = [LoraOptions().model_dump()] if setting.kind == "lora" else []
        opening = Opening(dtype=kind, load_in_4bit=setting.nf4)
        shapes = weightless(folder, opening, torch.device(setting.device), lora)
        work = Work(case.objective, training, 3, forget, retain)
        planned = needs_of(shapes, work, setting.device).memory
        state.model.requires_grad_(setting.kind == "full")
        for name, parameter in state.model.named_parameters():
            parameter.requires_grad_(setting.kind == "full" or ".lora_" in name)
        held = bytes_of([*state.model.parameters(), *state.model.buffers(), *scales(state.model)])

        def action() -> None:
            fit(state, case.objective, training, forget=forget, retain=retain)

        measured = peak_bytes(action, setting.device)
    return Peaks(planned.peak, measured, held, planned.weights + planned.adapters)


def scales(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return what a quantised model keeps beside its codes."""
    states = [getattr(p, "quant_state", None) for p in model.parameters()]
    return [each for one in states if one is not None for each in (one.absmax, one.code)]
