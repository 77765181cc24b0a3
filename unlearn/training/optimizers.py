"""The optimizers that training can be asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from unlearn.errors import OptionError
from unlearn.training.options import TrainingOptions

__all__ = ["all_matrices", "muon"]

# How much larger a step LoRA's B takes than its A. Both factors at one rate are not both efficient
# (LoRA+, 2402.12354, section 3); the ratio is from measurements on TOFU, see `methods/pilot.py`.
_B_OVER_A = 2.0


def all_matrices(model: nn.Module) -> bool:
    """Say whether all that trains is a matrix, as in plain LoRA: that is what Muon is for."""
    return all(p.dim() == 2 for p in model.parameters() if p.requires_grad)


def muon(model: nn.Module, training: TrainingOptions) -> torch.optim.Optimizer:
    """Return Muon over a model's trainable matrices.

    Each step adds an orthogonalised momentum, so that every direction of a matrix moves equally
    far; it is scaled to the root mean square that a step of AdamW has (Moonlight, 2502.16982,
    equation 4), so that learning rates of the two are of one size.

    Args:
        model: with `requires_grad` set.
        training: `learning_rate`, `momentum`, `weight_decay`.

    Returns:
        The optimizer.

    Raises:
        OptionError: if something that trains is no matrix.
    """
    if not all_matrices(model):
        raise OptionError(
            "optimizer=muon moves matrices only, and this model also trains vectors (a full "
            "fine-tune, or DoRA); use optimizer=adamw"
        )
    assert training.learning_rate is not None
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in named if _is_b(n) == b], "lr": training.learning_rate * factor}
        for b, factor in ((False, 1.0), (True, _B_OVER_A))
    ]
    return torch.optim.Muon(
        [group for group in groups if group["params"]],
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )


def _is_b(name: str) -> bool:
    return ".lora_B." in name or ".lora_embedding_B" in name
