"""Make other adapters active in a model's layers, and put everything back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Switched", "switched"]


@contextlib.contextmanager
def switched(module: nn.Module, names: list[str] | None) -> Iterator[None]:
    """Make other adapters (None: no adapter) active in every layer below a module."""
    layers: list[Any] = [m for m in module.modules() if hasattr(m, "_disable_adapters")]
    flags = [(m._disable_adapters, m._active_adapter) for m in layers]
    try:
        for layer in layers:
            layer._disable_adapters = names is None
            if names is not None:
                layer._active_adapter = names
        yield
    finally:
        for layer, (disabled, active) in zip(layers, flags, strict=True):
            layer._disable_adapters, layer._active_adapter = disabled, active


class Switched(nn.Module):
    """A projection as another adapter sees it."""

    def __init__(self, module: nn.Module, names: list[str] | None) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.no_grad(), switched(self.module, self.names):
            logits: Tensor = self.module(hidden)
        return logits
