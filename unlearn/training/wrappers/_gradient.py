"""Gradients of a whole optimizer step, as lists beside the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["Gradient", "accumulated", "dot", "reduced", "weighted_sum"]

Gradient = Sequence[Tensor | None]
"""One tensor a parameter; None where a parameter takes no part."""


def dot(a: Gradient, b: Gradient) -> float:
    """Return ⟨a, b⟩ over all parameters together, summed in float64."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        if x is not None and y is not None:
            total += float(torch.sum(x.double() * y.double()))
    return total


def accumulated(parts: Iterable[Gradient], parameters: int) -> Gradient:
    """Return the sum of the gradients of several batches, None where all of them have None."""
    total: list[Tensor | None] = [None] * parameters
    for part in parts:
        total = [
            new if old is None else (old if new is None else old + new)
            for old, new in zip(total, part, strict=True)
        ]
    return total


def weighted_sum(a: Gradient, b: Gradient, weight: float) -> Gradient:
    """Return a + weight·b."""
    return [
        x if y is None else (weight * y if x is None else x + weight * y)
        for x, y in zip(a, b, strict=True)
    ]


def reduced(
    gradient: Gradient, parameters: Sequence[Tensor], add_up: Callable[[Tensor], Tensor]
) -> Gradient:
    """Return the sum of a gradient over processes, in one exchange.

    Args:
        gradient: this process's part.
        parameters: give shape and type where it has None.
        add_up: sums a vector over processes.

    Returns:
        The sum; None where no process has anything.
    """
    pairs = list(zip(gradient, parameters, strict=True))
    used = torch.tensor([float(g is not None) for g, _ in pairs], device=parameters[0].device)
    flat = [(torch.zeros_like(p) if g is None else g).float().flatten() for g, p in pairs]
    total = add_up(torch.cat([*flat, used]))
    *parts, used = torch.split(total, [*(len(f) for f in flat), len(used)])
    return [
        part.view_as(p).to(p.dtype) if bool(some) else None
        for part, p, some in zip(parts, parameters, used, strict=True)
    ]
