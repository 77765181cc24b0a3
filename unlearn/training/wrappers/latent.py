"""Latent adversarial perturbation: forget also under the disturbance that best brings it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn.model.blocks import shifted_block
from unlearn.model.lm_head import unwrapped
from unlearn.model.scoring import Head, hidden_states, log_prob, target_positions, token_values
from unlearn.training.sampler import FORGET

__all__ = ["Latent", "find_offset", "within_ball"]

# Step length as a multiple of radius / steps: far enough to reach the ball's edge from its centre
# and to correct the direction on it (Madry et al., 1706.06083).
_REACH = 2.5


@dataclass(frozen=True)
class Latent:
    """A bounded disturbance of a block's output.

    Attributes:
        layer: the block; the first is 0.
        radius: ε, the Euclidean norm that each token's disturbance may have.
        steps: gradient steps in which it is chosen.
    """

    layer: int
    radius: float
    steps: int


def within_ball(offset: Tensor, radius: float) -> Tensor:
    """Return each vector of [..., H], shortened to length `radius` where it is longer."""
    length = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
    shortened: Tensor = offset * (radius / length.clamp(min=radius))
    return shortened


def find_offset(
    model: Any,
    head: Head,
    inputs: Mapping[str, Tensor],
    latent: Latent,
    run: Callable[..., Tensor] = hidden_states,
) -> Tensor:
    """Find the disturbance of a block's output that makes the forget records likeliest.

    min over δ with ‖δ_t‖₂ ≤ ε at each token t of the negative log-likelihood of the forget targets,
    with h + δ in place of the block's output h: the adversary of targeted latent adversarial
    training, steered towards what is to be forgotten (2407.15549). Projected gradient descent from
    δ = 0: δ ← Π(δ − 2.5·ε/steps · g/‖g‖), token by token, so that no record's
    disturbance depends on the others in its batch. The original code (its configuration for WMDP)
    takes 16 steps of AdamW with rate 0.05 from 0, in a ball of radius 2 at block 7 of Zephyr 7B,
    and changes the weights 4 times before it looks for another δ; here the step follows from the
    radius, and every optimizer step has its own δ.

    Args:
        model: a causal language model; its weights are not touched.
        head: its output projection.
        inputs: a batch of `collate_pairs`, or some of its rows.
        latent: where, how far, how many steps.
        run: takes (model, batch) up to the output projection.

    Returns:
        δ, float32 [B, S, H]: zero at padding and in all rows but those of forget records.
    """
    mine = (inputs["role"] == FORGET).nonzero()[:, 0]
    rows = {k: v[mine] for k, v in inputs.items()}
    row, position, target = target_positions(rows)
    shape = (*rows["input_ids"].shape, _width(model))
    offset = torch.zeros(shape, device=rows["input_ids"].device)
    real = rows["attention_mask"][..., None].to(offset.dtype)
    for _ in range(latent.steps):
        offset.requires_grad_()
        with shifted_block(model, latent.layer, offset, detach=True), torch.enable_grad():
            hidden = run(model, rows)[row, position]
            likelihood, _ = token_values(log_prob, head, hidden, target)
            (rise,) = torch.autograd.grad(likelihood.sum(), offset)
        length = torch.linalg.vector_norm(rise, dim=-1, keepdim=True)
        step = _REACH * latent.radius / latent.steps
        move = rise / length.clamp(min=torch.finfo(rise.dtype).tiny)  # no gradient: no move
        offset = within_ball(offset.detach() + step * move * real, latent.radius)
    whole = offset.new_zeros(len(inputs["role"]), *shape[1:])
    whole[mine] = offset
    return whole


def _width(model: Any) -> int:
    """Return H, the size of a model's hidden states."""
    return int(unwrapped(model).config.get_text_config().hidden_size)
