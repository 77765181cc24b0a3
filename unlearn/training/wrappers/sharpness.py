"""Sharpness-aware perturbation: forget at the worst weights nearby, so that it holds there too."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from unlearn.training.wrappers._gradient import Gradient, dot

__all__ = ["perturbed"]


@contextlib.contextmanager
def perturbed(parameters: Sequence[nn.Parameter], gradient: Gradient, rho: float) -> Iterator[None]:
    """Move the weights to θ + ρ·g/‖g‖ for a while, and put them back bit for bit.

    With g the gradient of the forget loss that is to be minimised, this is where to first order it
    is largest within a ball of radius ρ: where the records come back most. SAM for unlearning
    solves min_θ max_{‖δ‖ ≤ ρ} L_f(θ + δ) + λ·L_r(θ), whose inner maximum is taken so (2502.05374;
    SAM itself: 2010.01412, equation 2 with p = 2); the retain term stays at θ. The norm
    is over all trainable weights together.

    Limits: without a gradient (‖g‖ = 0) there is no worst direction, and the weights stay.

    Args:
        parameters: the trainable weights θ.
        gradient: g, one entry a parameter; None counts as zero.
        rho: ρ, in units of the weights' Euclidean norm.

    Yields:
        Nothing; the weights are moved.
    """
    norm = math.sqrt(dot(gradient, gradient))
    if norm == 0:
        yield
        return
    originals = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, g in zip(parameters, gradient, strict=True):
                if g is not None:
                    parameter.add_(g.to(parameter.dtype), alpha=rho / norm)
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(parameters, originals, strict=True):
                parameter.copy_(before)
