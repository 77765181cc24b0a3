"""What came out of frozen blocks, kept for later runs and scores of the process on the same base.

A set is what came out for the records of one run, or of one scoring. It is found by all that
decides its bits: the contents of the weights below, the configuration, the block, the batches, and
how the process computes. So adapters on one base share it, a base that was changed or rounded has
another, and what is found equals what would be computed, to the bit.

Sets are shared on CPUs only: to read all weights costs little there against one batch. Nothing is
written: what came out of blocks tells of the records, and is gone with the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import OrderedDict
from collections.abc import (
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from unlearn.data.tokenization import Example
from unlearn.errors import ModelError
from unlearn.model.blocks import block_outputs, blocks_of
from unlearn.model.frozen import Kept, Tried, passing, tried
from unlearn.model.lm_head import hidden_states, unwrapped
from unlearn.processes import weights_are_split

__all__ = ["LIMIT", "OUTPUTS", "FrozenOutputs", "digest_of", "lower_key", "scoring_passes"]

LIMIT = 1 << 30
"""Bytes in memory for sets that are not in use; those that were not used for longest go first."""

_SAMPLE = 64
"""Numbers of a tensor that are compared before its digest counts as known."""

Pass = Callable[[Mapping[str, Tensor], int], Tensor]
"""Runs a model up to its output projection on (a batch, its number)."""


class FrozenOutputs:
    """Sets of tensors by what decides their bits, in memory up to a limit.

    Args:
        limit: bytes of sets that are not in use.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._sets: OrderedDict[Hashable, Kept] = OrderedDict()
        self._tried: dict[Hashable, Tried | str] = {}
        self._resting = False

    @contextlib.contextmanager
    def opened(self, key: Hashable | None, make: Callable[[], Kept]) -> Iterator[Kept]:
        """Give a set to be read and filled; afterwards it is there for others.

        A set has one user at a time: a second one begins an empty set. One that went on in a file
        is gone afterwards.

        Args:
            key: what decides the bits of all that is in it; None for a set of this user's own.
            make: makes an empty set.

        Yields:
            The set.
        """
        if self._resting:
            key = None
        kept = self._sets.pop(key, None) or make()
        try:
            yield kept
        finally:
            if key is None or kept.spilled or key in self._sets:
                kept.close()
            else:
                self._sets[key] = kept
                self._trim()

    def tried(self, key: Hashable, attempt: Callable[[], Tried | str]) -> Tried | str:
        """Return what a trial of a model said, which is made once."""
        if key not in self._tried:
            self._tried[key] = attempt()
        return self._tried[key]

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Let nothing be found and nothing be kept inside a block."""
        before, self._resting = self._resting, True
        try:
            yield
        finally:
            self._resting = before

    @property
    def rests(self) -> bool:
        """Whether nothing is found and kept now."""
        return self._resting

    @property
    def in_memory(self) -> int:
        """Bytes of sets that are not in use."""
        return sum(kept.in_memory for kept in self._sets.values())

    def clear(self) -> None:
        """Forget all that is not in use."""
        while self._sets:
            self._sets.popitem()[1].close()
        self._tried.clear()

    def _trim(self) -> None:
        while self.in_memory > self._limit:
            self._sets.popitem(last=False)[1].close()


OUTPUTS = FrozenOutputs()
"""Those of this process."""


def digest_of(rows: Iterable[bytes]) -> bytes:
    """Return a digest of rows of token ids, in order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(len(row).to_bytes(8, "little") + row)
    return total.digest()


def lower_key(model: Any, first: int) -> Hashable | None:
    """Return all that decides, for given batches, what comes out of the blocks below one.

    Args:
        model: a causal language model, wrapped or not.
        first: the lowest block that does not count.

    Returns:
        A key; None where something else may decide it: an adapter, a hook, weights that are packed
        or train, a device that is no CPU.
    """
    if not first or weights_are_split():
        return None
    modules = _lower_modules(model, first)
    tensors = [(f"{name} {own}", t) for name, m in modules for own, t in _tensors(m)]
    if any(_may_differ(m) for _, m in modules) or not all(_plain(t) for _, t in tensors):
        return None
    config = unwrapped(model).config
    total = hashlib.sha256(json.dumps(_settings(config), sort_keys=True, default=str).encode())
    for name, tensor in tensors:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        total.update(_contents(tensor))
    kinds = tuple((name, type(module)) for name, module in modules)
    return total.digest(), kinds, first, config._attn_implementation, _arithmetic()


def _lower_modules(model: Any, first: int) -> list[tuple[str, nn.Module]]:
    """Return the modules that may decide what comes out: all but the blocks above and the head."""
    net, blocks = unwrapped(model), blocks_of(model)
    lower = {id(m) for block in blocks[:first] for m in block.modules()}
    above = [*blocks[first:], net.get_output_embeddings()]
    rest = {id(m) for module in above for m in module.modules()} - lower
    return [(name, module) for name, module in net.named_modules() if id(module) not in rest]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _settings(config: Any) -> dict[str, Any]:
    """Return a configuration without what generation alone reads, which training may change."""
    settings: dict[str, Any] = config.to_dict()
    return {k: v for k, v in settings.items() if k != "use_cache" and not k.endswith("_token_id")}


def _may_differ(module: nn.Module) -> bool:
    """Whether something beside weights and configuration decides what a module does."""
    changed = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    return bool(changed) or hasattr(module, "_disable_adapters")


def _plain(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor, which does not train, are all there is to it."""
    packed = isinstance(tensor, nn.Parameter) and not tensor.is_floating_point()
    strange = type(tensor) not in {Tensor, nn.Parameter} or tensor.layout != torch.strided
    changes = tensor.requires_grad or tensor.is_inference()
    return not (packed or strange or changes) and tensor.device.type == "cpu"


def _arithmetic() -> tuple[Any, ...]:
    """Return how the process computes, as far as it may show in the last bit."""
    return (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


class _Known(NamedTuple):
    """The digest of a tensor, and by what one sees that it is the same still."""

    version: int
    place: int
    sample: Tensor
    digest: bytes


_KNOWN: MutableMapping[Tensor, _Known] = WeakTensorKeyDictionary()


def _contents(tensor: Tensor) -> bytes:
    """Return a digest of a tensor's numbers, read once as long as nothing writes them.

    PyTorch counts what is written, but not through `.data`: there a sample of the numbers shows it.
    """
    flat = tensor.detach().reshape(-1)
    sample = flat[:: max(1, len(flat) // _SAMPLE)].clone()
    known = _KNOWN.get(tensor)
    unwritten = known and known[:2] == (tensor._version, tensor.data_ptr())
    if known and unwritten and torch.equal(_bits(known.sample), _bits(sample)):
        return known.digest
    digest = hashlib.sha256(_bits(flat.contiguous()).numpy().data).digest()
    _KNOWN[tensor] = _Known(tensor._version, tensor.data_ptr(), sample, digest)
    return digest


def _bits(flat: Tensor) -> Tensor:
    return flat.view(torch.uint8)


@contextlib.contextmanager
def scoring_passes(model: Any, batches: Sequence[Sequence[Example]]) -> Iterator[Pass]:
    """Run a model on batches, its blocks below all adapters only where they did not run before.

    The first time all blocks run as always. What came out below is kept of a batch as a whole, with
    what stands at padding, so that later the blocks above get the very same numbers.

    Args:
        model: a causal language model in evaluation mode.
        batches: the examples of each.

    Yields:
        What runs the model.
    """
    first = 0 if OUTPUTS.rests or not batches else _first_adapted_block(model)
    lower = lower_key(model, first)
    names = [b"".join(map(_row, batch)) for batch in batches]
    key = None if lower is None else ("scoring", lower, digest_of(names))
    if key is None:
        yield lambda inputs, number: hidden_states(model, inputs)
        return
    with OUTPUTS.opened(key, lambda: Kept(LIMIT, 0)) as kept:

        def run(inputs: Mapping[str, Tensor], number: int) -> Tensor:
            if number not in kept:
                with block_outputs(model, {first - 1}) as seen:
                    hidden = hidden_states(model, inputs)
                kept.put(number, seen[first - 1].clone())
                return hidden
            rows = [torch.from_numpy(e.ids) for e in batches[number]]
            works = OUTPUTS.tried(lower, lambda: tried(model, first, rows))
            if isinstance(works, str):
                return hidden_states(model, inputs)
            with passing(blocks_of(model)[:first], works.widths, kept[number].clone()):
                return hidden_states(model, inputs)

        yield run


def _row(example: Example) -> bytes:
    return len(example.ids).to_bytes(8, "little") + example.ids.tobytes()


def _first_adapted_block(model: Any) -> int:
    """Return the first block that holds an adapter; 0 where none does."""
    if not hasattr(model, "peft_config"):
        return 0
    try:
        blocks = blocks_of(model)
    except ModelError:  # an architecture whose blocks are not found is scored all the same
        return 0
    adapted = (
        i
        for i, block in enumerate(blocks)
        if any(hasattr(module, "_disable_adapters") for module in block.modules())
    )
    return next(adapted, 0)
