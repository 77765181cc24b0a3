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
from unlearn.model.lora import switched

__all__ = ["Mixer"]


class Mixer:
    """The factors of adapters on one base, stacked by layer.

    Args:
        net: a PEFT model with plain LoRA adapters of one shape.
        names: of the adapters, in the order in which rows count them.
    """

    def __init__(self, net: Any, names: Sequence[str]) -> None:
        self._net = net
        self._factors: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for layer in net.modules():
            if names and names[0] in getattr(layer, "lora_A", ()):
                self._factors[layer] = _stacked(layer, names)

    @contextlib.contextmanager
    def rows(self, adapters: Sequence[int | None]) -> Iterator[None]:
        """Let row i of every batch inside have an adapter, by its place among the names.

        Args:
            adapters: one a row; None for the base alone.

        Yields:
            Nothing.
        """
        device = next(self._net.parameters()).device
        # the last of the stacked factors is zero
        index = torch.tensor([-1 if a is None else a for a in adapters], device=device)
        handles = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(switched(self._net, None))
            for layer, (down, up) in self._factors.items():
                handles.append(layer.register_forward_hook(_added(down[index], up[index])))
                stack.callback(handles[-1].remove)
            yield


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


def _added(down: Tensor, up: Tensor) -> Any:
    """Return a hook that adds what each row's adapter says."""

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs = args[0].to(down.dtype)
        return output + torch.bmm(torch.bmm(inputs, down), up).to(output.dtype)

    return hook
