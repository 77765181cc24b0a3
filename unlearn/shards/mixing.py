"""Let each row of a batch have its own adapter, at the price of one.

PEFT takes `adapter_names`, a name a row, and goes through the adapters one after another in each
layer. Adapters of one shape can be multiplied at once: y_i = W x_i + s·B_{k(i)} A_{k(i)} x_i with
k(i) the adapter of row i, two batched products whatever the number of adapters (as Punica does,
2310.18547).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.errors import ModelError

__all__ = ["Mixer"]


class Mixer:
    """The factors of adapters on one base, stacked by layer.

    Args:
        net: a PEFT model with plain LoRA adapters of one shape.
        names: of the adapters, in the order in which rows count them.
    """

    def __init__(self, net: Any, names: Sequence[str]) -> None:
        self._device = next(net.parameters()).device
        self._layers: list[Any] = [m for m in net.modules() if hasattr(m, "_disable_adapters")]
        self._factors: list[tuple[_Slot, Tensor, Tensor]] = []
        for layer in self._layers:
            if names and names[0] in getattr(layer, "lora_A", ()):
                slot = _Slot()
                # once: a small batch takes no longer than registering hooks for it would
                layer.register_forward_hook(slot)
                self._factors.append((slot, *_stacked(layer, names)))

    @contextlib.contextmanager
    def rows(self, adapters: Sequence[int | None]) -> Iterator[None]:
        """Let row i of every batch inside have an adapter, by its place among the names.

        Args:
            adapters: one a row; None for the base alone.

        Yields:
            Nothing.
        """
        # the last of the stacked factors is zero
        index = torch.tensor([-1 if a is None else a for a in adapters], device=self._device)
        before = [layer._disable_adapters for layer in self._layers]
        try:
            for layer in self._layers:
                layer._disable_adapters = True
            for slot, down, up in self._factors:
                slot.factors = (down[index], up[index])
            yield
        finally:
            for layer, flag in zip(self._layers, before, strict=True):
                layer._disable_adapters = flag
            for slot, _, _ in self._factors:
                slot.factors = None


class _Slot:
    """A hook that adds what each row's adapter says, as long as there are factors of the rows."""

    factors: tuple[Tensor, Tensor] | None = None

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Return W x + s·B A x; None, which changes nothing, without factors."""
        if self.factors is None:
            return None
        down, up = self.factors
        inner = torch.bmm(args[0].to(down.dtype), down)
        if output.dtype == up.dtype:
            return torch.baddbmm(output, inner, up)
        return output + torch.bmm(inner, up).to(output.dtype)


def _stacked(layer: Any, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return Aᵀ [K + 1, in, r] and s·Bᵀ [K + 1, r, out] of a layer, zero at the end."""
    if any(name in getattr(layer, "lora_variant", {}) for name in names):
        raise ModelError("shards of a variant of LoRA, such as DoRA, are not served together")
    down = [layer.lora_A[name].weight.detach().T for name in names]
    up = [layer.lora_B[name].weight.detach().T * layer.scaling[name] for name in names]
    return (
        torch.stack([*down, torch.zeros_like(down[0])]),
        torch.stack([*up, torch.zeros_like(up[0])]),
    )
