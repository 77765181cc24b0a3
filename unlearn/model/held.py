"""What operators hold at once and compute, counted on shapes alone.

On the meta device tensors have shapes and no content. Running a model there allocates nothing, and
still goes through every operator of a forward and a backward pass: adding up what each would
allocate, and taking off what nobody holds any more, gives the peak that the same pass has on
tensors with content, but for workspaces inside an operator.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from unlearn.model.chunked_logits import cut_as_on

__all__ = ["Held", "bytes_of", "counted"]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the storages below some tensors, each counted once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what operators allocate while it is entered.

    Args:
        known: tensors that are held already, and are not counted.

    Attributes:
        now: bytes that are held.
        peak: the most that were held at once.
        operations: floating-point operations of matrix products and attention.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak, self.operations = 0, 0, 0
        self._seen: dict[int, object] = {}
        for tensor in known:
            storage = tensor.untyped_storage()
            self._seen[storage._cdata] = storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and note what it allocated."""
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += int(count(*args, **(kwargs or {}), out_val=result))
        for each in tree_iter(result):
            if isinstance(each, Tensor):
                self._note(each)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self.now += size
        self.peak = max(self.peak, self.now)
        self._seen[key] = weakref.finalize(storage, self._released, key, size)

    def _released(self, key: int, size: int) -> None:
        self.now -= size
        del self._seen[key]


class _Attention(torch.autograd.Function):
    """Attention that keeps what a fused kernel keeps: inputs, output, and a sum for each query."""

    @staticmethod
    def forward(ctx: Any, held: Held, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        # two products of queries × keys; five in the backward pass (2205.14135, algorithm 4)
        ctx.held, ctx.product = held, 2 * query.numel() * key.shape[-2]
        held.operations += 2 * ctx.product
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        ctx.held.operations += 5 * ctx.product
        return None, *(torch.empty_like(each) for each in (query, key, value))


class _WithoutContent(TorchFunctionMode):
    """Answers what a model asks of contents that shapes do not have."""

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self._padded = padded

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        if func is Tensor.__bool__ and args[0].is_meta:
            return not self._padded  # asked whether a mask can be left out
        if func is Tensor.cpu and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _fused_attention(held: Held) -> Iterator[None]:
    """Let attention be a fused kernel's: on the meta device torch would take the slow formula.

    It is put in the place of the function itself, as modes of torch are off in a backward pass,
    where blocks run again under gradient checkpointing.
    """
    own = F.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = _Attention.apply(held, query, key, value)  # type: ignore[no-untyped-call]
        return result

    F.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


@contextlib.contextmanager
def counted(net: nn.Module, place: str, *, padded: bool = False) -> Iterator[Held]:
    """Count what running a model without weights would hold and compute, beside the model itself.

    Args:
        net: a model on the meta device.
        place: type of the device for which it is planned: `cpu` or `cuda`.
        padded: whether rows of a batch differ in length, so that attention needs a mask.

    Yields:
        The counts so far.
    """
    held = Held([*net.parameters(), *net.buffers()])
    with (
        torch.device("meta"),
        cut_as_on(place),
        _fused_attention(held),
        held,
        _WithoutContent(padded),
    ):
        yield held
