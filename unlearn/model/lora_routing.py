"""Send each row of a batch through its own LoRA adapter, in training as well.

PEFT mixes adapters within a batch in inference only. Here the rows of a batch are sorted by adapter
and every LoRA layer applies each adapter to its own run of rows, so that nothing is padded and an
adapter without rows gets no gradient at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.errors import ModelError

__all__ = ["Route", "routed"]


@dataclass
class Route:
    """Which adapter the next forward pass sends its rows through.

    Attributes:
        names: the adapters, by name.
        rows: for each of them, how many rows of the batch are its own; they come in this order.
    """

    names: Sequence[str]
    rows: Sequence[int] = field(default=())

    def parts(self, x: Tensor) -> list[tuple[str, slice]]:
        """Return the adapters that have rows, with the positions of x, flattened, that they own."""
        each = x.shape[:-1].numel() // max(1, sum(self.rows))
        ends = list(accumulate(n * each for n in self.rows))
        return [
            (name, slice(end - n * each, end))
            for name, n, end in zip(self.names, self.rows, ends, strict=True)
            if n
        ]


@contextlib.contextmanager
def routed(model: Any, route: Route) -> Iterator[None]:
    """Let every LoRA layer of a model follow a route; afterwards all is as before.

    Gradients must be taken inside: a layer whose activations are recomputed in the backward pass
    follows the route again there.

    Args:
        model: a PEFT model with the adapters of the route.
        route: read in each forward pass.

    Yields:
        Nothing.

    Raises:
        ModelError: if something other than a plain LoRA layer would have to follow it.
    """
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [m for m in model.modules() if isinstance(m, LoraLayer)]
    for layer in layers:
        if not hasattr(layer, "lora_A") or not layer.lora_A or layer.lora_variant:
            raise ModelError(
                f"adapters on a {type(layer.get_base_layer()).__name__} cannot be trained side by "
                "side: only plain LoRA of linear layers can; train them one by one with finetune"
            )
    try:
        for layer in layers:
            layer.forward = _Follower(layer, route)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


@dataclass(frozen=True)
class _Follower:
    """What a LoRA layer does instead: y = W x + b + s_k B_k A_k x on the rows of adapter k."""

    layer: Any
    route: Route

    def __call__(self, x: Tensor) -> Tensor:
        layer, base = self.layer, self.layer.base_layer
        parts = self.route.parts(x)
        factors = [
            f for name, _ in parts for f in (layer.lora_A[name].weight, layer.lora_B[name].weight)
        ]
        scales = [layer.scaling[name] for name, _ in parts]
        where = [part for _, part in parts]
        dropout = layer.lora_dropout[parts[0][0]]
        plain = isinstance(dropout, nn.Identity) or not self.layer.training
        if plain and _is_plain(base, x):
            product: Tensor = _Product.apply(x, base.weight, base.bias, where, scales, *factors)  # type: ignore[no-untyped-call]
            return product
        result = base(x)
        inner = dropout(x.to(factors[0].dtype)).flatten(0, -2)
        delta = _sum_of_parts(inner, where, scales, factors)
        summed: Tensor = result + delta.view(*x.shape[:-1], -1)
        return summed.to(result.dtype)


def _is_plain(base: nn.Module, x: Tensor) -> bool:
    """Whether a layer is h ↦ W h + b in float32 on a CPU, with a frozen W."""
    return (
        type(base) is nn.Linear
        and x.device.type == "cpu"
        and x.dtype == base.weight.dtype == torch.float32
        and not base.weight.requires_grad
        and not torch.is_autocast_enabled("cpu")
    )


def _sum_of_parts(
    x: Tensor, where: Sequence[slice], scales: Sequence[float], factors: Sequence[Tensor]
) -> Tensor:
    """Return s_k B_k A_k x of every position, [N, out]; one batched product where parts are equal.

    An accelerator pays for each product it is told of, so that K small ones cost more than one.
    """
    a, b = factors[::2], factors[1::2]
    if len({part.stop - part.start for part in where}) == 1:
        inner = torch.bmm(x.view(len(where), -1, x.shape[-1]), torch.stack(list(a)).mT)
        outer = torch.bmm(inner, torch.stack(list(b)).mT)
        return (outer * outer.new_tensor(scales)[:, None, None]).flatten(0, 1)
    return torch.cat(
        [
            F.linear(F.linear(x[part], a_k), b_k) * s
            for part, a_k, b_k, s in zip(where, a, b, scales, strict=True)
        ]
    )


class _Product(torch.autograd.Function):
    """y = (W + s_k B_k A_k) x + b on each part, in as few passes over memory as there can be.

    With many positions a part it is cheaper to make W + s B A, in the forward and again in the
    backward pass, than to take every position through the narrow factors: r·in·out operations for
    each adapter against r·(in + out) for each of its positions. With few of them the factors are
    applied in place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        where: Sequence[slice],
        scales: Sequence[float],
        *factors: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *factors)
        ctx.how = where, scales
        flat = x.reshape(-1, x.shape[-1])
        merge = _merging(flat, weight, where)
        y = flat.new_empty(len(flat), len(weight)) if merge else F.linear(flat, weight, bias)
        for part, s, a, b in zip(where, scales, factors[::2], factors[1::2], strict=True):
            if not merge:
                y[part].addmm_(flat[part] @ a.T, b.T, alpha=s)
                continue
            whole = torch.addmm(weight, b, a, alpha=s).T
            if bias is None:
                torch.mm(flat[part], whole, out=y[part])
            else:
                torch.addmm(bias, flat[part], whole, out=y[part])
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *factors = ctx.saved_tensors
        where, scales = ctx.how
        flat, dy = x.reshape(-1, x.shape[-1]), gradients[0].reshape(-1, len(weight))
        merge = _merging(flat, weight, where)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(flat) if merge else dy @ weight
        of_factors: list[Tensor | None] = []
        for i, (part, s) in enumerate(zip(where, scales, strict=True)):
            a, b = factors[2 * i], factors[2 * i + 1]
            inner = dy[part] @ b
            if dx is not None and merge:
                torch.mm(dy[part], torch.addmm(weight, b, a, alpha=s), out=dx[part])
            elif dx is not None:
                dx[part].addmm_(inner, a, alpha=s)
            wanted = ctx.needs_input_grad[5 + 2 * i :]
            of_factors.append((inner.T @ flat[part]).mul_(s) if wanted[0] else None)
            of_factors.append(((flat[part] @ a.T).mul_(s).T @ dy[part]).T if wanted[1] else None)
        return (None if dx is None else dx.view(x.shape), None, None, None, None, *of_factors)


def _merging(flat: Tensor, weight: Tensor, where: Sequence[slice]) -> bool:
    """Whether the parts are large enough for W + s B A to be the cheaper one."""
    return len(flat) * sum(weight.shape) > len(where) * weight.numel()
