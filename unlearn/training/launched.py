"""Whether accelerate set up what a launcher was asked for, and a training can be split so."""

from __future__ import annotations

from typing import Any

from torch import nn

from unlearn.errors import OptionError
from unlearn.model.state import ModelState
from unlearn.processes import splitting, weights_are_split, world_size
from unlearn.training.options import TrainingOptions

__all__ = ["check_launched", "check_split", "whole_only"]


def check_launched(accelerator: Any) -> None:
    """Refuse to train with other processes than a launcher was asked for.

    Args:
        accelerator: the `accelerate.Accelerator` that trains.

    Raises:
        OptionError: if there are more or fewer, or weights are not split that should be.
    """
    if accelerator.num_processes != world_size():
        raise OptionError(
            f"{world_size()} processes were launched, and accelerate set up "
            f"{accelerator.num_processes} (`accelerate env` shows what it finds here)"
        )
    if splitting() and not accelerator.is_fsdp2:
        raise OptionError(
            f"accelerate was launched with {splitting()}, and set up "
            f"{accelerator.distributed_type.value}, which does not split weights as asked "
            "(`accelerate env` shows what it finds here)"
        )


def check_split(state: ModelState, training: TrainingOptions) -> None:
    """Refuse what does not train where weights are split over processes.

    Args:
        state: the opened model.
        training: how it is to train.

    Raises:
        OptionError: with what to change.
    """
    if training.optimizer == "muon":
        whole_only("optimizer=muon", "it turns whole matrices: use optimizer=adamw")
    if getattr(state.model, "is_loaded_in_4bit", False):
        whole_only("--load-in-4bit", "4-bit codes cannot be split: leave it out")
    if not isinstance(state.head.module, nn.Linear):
        whole_only(
            "an adapter on the output projection", "name other modules (lora target_modules)"
        )


def whole_only(what: str, reason: str) -> None:
    """Refuse what needs whole weights in every process where a launcher splits them.

    Args:
        what: the option or method.
        reason: why, or what to do instead.

    Raises:
        OptionError: if weights are split.
    """
    if weights_are_split():
        raise OptionError(
            f"{what} needs whole weights in every process, and accelerate was launched with "
            f"{splitting()}: {reason}, or start it with --multi_gpu"
        )
