"""Wrappers of the forget term, whatever its loss: they change the gradient of an optimizer step.

- `sharpness`: take the forget gradient at the worst weights nearby;
- `projection`: take out of it what would undo the retain term;
- `latent`: take the forget loss under the worst disturbance of a block's output.

Any of them go together. The forget gradient is then that of the loss under the disturbance, at the
disturbed weights, and the projection comes last, on the gradient that the optimizer would get.
"""

from __future__ import annotations

from dataclasses import dataclass

from unlearn.errors import OptionError
from unlearn.losses import HiddenLoss
from unlearn.model.blocks import blocks_of
from unlearn.model.state import ModelState
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.wrappers.latent import Latent

__all__ = ["Wrappers", "wrappers_of"]

# The block disturbed where none is named: 7 of 32 in the original code's runs on WMDP.
_DEPTH = 7 / 32


@dataclass(frozen=True)
class Wrappers:
    """Which wrappers are on.

    Attributes:
        rho: ρ of the sharpness-aware perturbation; 0 for none.
        project: whether to project the forget gradient.
        latent: the latent disturbance, if any.
    """

    rho: float = 0.0
    project: bool = False
    latent: Latent | None = None


def wrappers_of(
    training: TrainingOptions, objective: Objective, state: ModelState, *, retain: bool
) -> Wrappers | None:
    """Return the wrappers that a run asks for; None where there are none, or no forget term.

    Args:
        training: options `sam_rho`, `project_retain`, `latent_radius`, `latent_steps`,
            `latent_layer`.
        objective: what they wrap.
        state: the model.
        retain: whether there are retain records.

    Returns:
        The wrappers.

    Raises:
        OptionError: if there is no retain gradient to project on, or `latent_layer` is not in the
            model, or lies above the block that the loss looks at.
    """
    if objective.forget is None:
        return None
    if training.project_retain and not (objective.retain and retain):
        raise OptionError("project_retain needs retain records and a retain loss")
    latent = None
    if training.latent_radius:
        depth = len(blocks_of(state.model))
        chosen = training.latent_layer
        layer = min(round(depth * _DEPTH), depth - 1) if chosen is None else chosen
        if layer >= depth:
            raise OptionError(
                f"latent_layer {layer} does not exist: the model has {depth} blocks, 0 to "
                f"{depth - 1}"
            )
        seen = objective.forget.layer if isinstance(objective.forget, HiddenLoss) else depth
        if layer > seen:
            raise OptionError(
                f"latent_layer {layer} lies above block {seen}, which the forget loss looks at: "
                f"choose one of 0 to {seen}"
            )
        latent = Latent(layer, training.latent_radius, training.latent_steps)
    if not (training.sam_rho or training.project_retain or latent):
        return None
    return Wrappers(training.sam_rho or 0.0, training.project_retain, latent)
