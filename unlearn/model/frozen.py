"""Frozen blocks below those that train: what comes out of them, computed once for each record.

A model's own code makes embeddings, masks and rotary angles as always; only the blocks below hand
on, instead of what they would compute, what is already known. So no architecture is spelled out
here, and `frozen_lower` tries on each model whether it works.

What equality holds. What comes out below for a record is what comes out of one batch that the data
decide: records of like length, whatever batch they train in. Zeros stand at padding. So a run that
keeps it in memory, on disk or not at all, or that goes on from a checkpoint, trains the same
weights, to the bit where the same operation on the same numbers gives the same bits (on CPUs it
does). A run through all blocks (`whole_pass`) differs from it by rounding: sums over another
width of padding, and matrix products of another number of rows, may round otherwise.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlearn.data.batching import token_budget_batches
from unlearn.data.tokenization import Example
from unlearn.model.blocks import block_outputs, blocks_of
from unlearn.model.lm_head import hidden_states, unwrapped

__all__ = [
    "FrozenLower",
    "Kept",
    "Tried",
    "first_trained_block",
    "frozen_lower",
    "groups_of",
    "passing",
    "tried",
    "whole_pass",
]

# Padded tokens of one batch below: enough for matrix products to be fast on a CPU.
_TOKEN_BUDGET = 1024

# Tokens of the longest row on which a model is tried.
_PROBE = 40

_Group = Sequence[Tensor]
"""Token ids of the records of one batch, int64 [S] each."""


def whole_pass(model: Any, batch: Mapping[str, Tensor], view: str = "") -> Tensor:
    """Run a model through all of its blocks; what `FrozenLower.hidden_states` saves a part of."""
    return hidden_states(model, batch)


class Kept:
    """Tensors by name: in memory up to a limit, beyond it in a file, beyond that not at all.

    The file has no name (where the operating system allows it), so that nothing of it is left when
    the process ends, however it ends.

    Args:
        memory: bytes in memory.
        disk: bytes in the file; None for half of what is free.

    Attributes:
        full: whether the disk took less than it should have.
        in_memory: bytes in memory.
    """

    def __init__(self, memory: int, disk: int | None = None) -> None:
        free = shutil.disk_usage(tempfile.gettempdir()).free // 2
        self._memory, self._disk = memory, free if disk is None else disk
        self._tensors: dict[Any, Tensor] = {}
        self._places: dict[Any, tuple[int, torch.Size, torch.dtype]] = {}
        self._file: FileIO | None = None
        self._end = self.in_memory = 0
        self.full = False

    def __contains__(self, name: object) -> bool:
        return name in self._tensors or name in self._places

    def __getitem__(self, name: object) -> Tensor:
        if name in self._tensors:
            return self._tensors[name]
        start, shape, dtype = self._places[name]
        tensor = torch.empty(shape, dtype=dtype)
        assert self._file is not None
        self._file.seek(start)
        _whole(self._file.readinto, _bytes_of(tensor))
        return tensor

    @property
    def room(self) -> int:
        """Bytes that still find room."""
        return self._memory - self.in_memory + self._disk - self._end

    @property
    def spilled(self) -> bool:
        """Whether some of it is in the file."""
        return self._file is not None

    def put(self, name: object, tensor: Tensor) -> None:
        """Keep a tensor on the CPU, if there is room for it.

        Args:
            name: hashable.
            tensor: contiguous.
        """
        size = tensor.numel() * tensor.element_size()
        if size <= self._memory - self.in_memory:
            self.in_memory += size
            self._tensors[name] = tensor
            return
        if self._end + size > self._disk:
            return
        try:
            if self._file is None:
                # without a buffer: one would be written again, and fail again, at the next read
                self._file = tempfile.TemporaryFile(prefix="unlearn-", buffering=0)  # noqa: SIM115
            self._file.seek(self._end)
            _whole(self._file.write, _bytes_of(tensor))
        except OSError:
            # full, or not to be written on: what does not fit is computed again
            self._disk, self.full = self._end, True
            return
        self._places[name] = self._end, tensor.shape, tensor.dtype
        self._end += size

    def close(self) -> None:
        """Forget all of it."""
        self._tensors.clear()
        self._places.clear()
        self.in_memory = 0
        if self._file is not None:
            self._file.close()
        self._file = None


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return a contiguous tensor's memory as a buffer."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _whole(transfer: Callable[[memoryview], int | None], buffer: memoryview) -> None:
    """Read or write all of a buffer, of which a call may do a part.

    Raises OSError where nothing more comes or goes.
    """
    while buffer:
        count = transfer(buffer)
        if not count:
            raise OSError("the file ended early")
        buffer = buffer[count:]


@dataclass(frozen=True)
class FrozenLower:
    """The blocks below the first that trains, computed once for each sequence of tokens.

    Attributes:
        first: the first block that trains; those below are frozen.
        widths: of the tuple that each block returns; 0 where it returns a tensor.
        apart: whether the references' blocks below differ from the model's own.
        groups: the batch that each row is computed in, by its token ids; others are alone.
        kept: what was computed.
    """

    first: int
    widths: tuple[int, ...]
    apart: bool
    groups: Mapping[bytes, _Group] = field(repr=False)
    kept: Kept = field(repr=False)

    def hidden_states(self, model: Any, batch: Mapping[str, Tensor], view: str = "") -> Tensor:
        """Run a model up to its output projection, as `unlearn.model.lm_head.hidden_states` does.

        Args:
            model: the model, wrapped or not, or a reference.
            batch: `input_ids` and `attention_mask` [B, S]; `position_ids` where rows are padded on
                the left.
            view: whose weights are active, `` for those that train, else a reference's name.

        Returns:
            Hidden states [B, S, H]; what stands at padding means nothing.
        """
        start = self.outputs(model, batch, view)
        with passing(blocks_of(model)[: self.first], self.widths, start):
            return hidden_states(model, batch)

    def left_out(self, model: Any) -> contextlib.AbstractContextManager[None]:
        """Let passes skip the blocks below, as if they cost nothing; what comes out is nonsense."""
        return passing(blocks_of(model)[: self.first], self.widths)

    def outputs(self, model: Any, batch: Mapping[str, Tensor], view: str = "") -> Tensor:
        """Return what comes out of the frozen blocks, [B, S, H] with zeros at padding."""
        device, real = batch["input_ids"].device, batch["attention_mask"].bool().cpu()
        ids = batch["input_ids"].cpu()
        view = view if self.apart else ""
        rows = [self._row(model, row[mask], view) for row, mask in zip(ids, real, strict=True)]
        start = torch.zeros(*ids.shape, rows[0].shape[-1], dtype=rows[0].dtype)
        for place, mask, row in zip(start, real, rows, strict=True):
            place[mask] = row
        return start.to(device)

    def unknown(self, examples: Sequence[Example]) -> int:
        """Return for how many different examples what comes out is not known yet."""
        rows = {e.ids.tobytes() for e in examples}
        return sum(("", row) not in self.kept for row in rows)

    def _row(self, model: Any, ids: Tensor, view: str) -> Tensor:
        """Return what comes out for one row, [S, H] on the CPU."""
        name = view, _name(ids)
        if name in self.kept:
            return self.kept[name]
        group = self.groups.get(name[1], [ids])
        outputs = _below(model, self.first, self.widths, group).cpu()
        hidden: dict[tuple[str, bytes], Tensor] = {}
        for row, output in zip(group, outputs, strict=True):
            key = view, _name(row)
            hidden[key] = output[: len(row)].clone()
            if key not in self.kept:
                self.kept.put(key, hidden[key])
        return hidden[name]


def _name(ids: Tensor) -> bytes:
    return ids.numpy().tobytes()


def groups_of(rows: Sequence[Tensor]) -> dict[bytes, _Group]:
    """Put rows of like length, without copies, into batches that do not depend on their order."""
    unlike = {_name(row): row for row in rows}
    ordered = [unlike[name] for name in sorted(unlike)]
    batches = token_budget_batches(list(map(len, ordered)), _TOKEN_BUDGET)
    groups = ([ordered[i] for i in batch] for batch in batches)
    return {_name(row): group for group in groups for row in group}


def first_trained_block(model: Any) -> int:
    """Return the first block that holds a weight that trains; their number where none does."""
    blocks = blocks_of(model)
    trains = (
        i for i, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())
    )
    return next(trains, len(blocks))


def frozen_lower(
    model: Any, rows: Sequence[Tensor], kept: Kept, *, apart: bool = False
) -> FrozenLower | str:
    """Let the blocks below the first that trains be computed once, where `tried` finds they can.

    Args:
        model: a causal language model with a block that is frozen, wrapped or not.
        rows: token ids of the records, int64 [S] each, at least one.
        kept: where results go.
        apart: whether references have other weights below.

    Returns:
        The blocks, or why they must be computed in every pass.
    """
    first = first_trained_block(model)
    lower = tried(model, first, rows)
    if isinstance(lower, str):
        return lower
    groups = groups_of(rows)
    size = len(b"".join(groups)) // rows[0].element_size() * lower.size * (1 + apart)
    if size > kept.room + kept.in_memory:
        return f"to keep it would take {size / 2**30:.1f} GiB, more than there is room for"
    return FrozenLower(first, lower.widths, apart, groups, kept)


class Tried(NamedTuple):
    """Of the blocks below: the length of the tuple that each returns, and bytes of a vector."""

    widths: tuple[int, ...]
    size: int


def tried(model: Any, first: int, rows: Sequence[Tensor]) -> Tried | str:
    """Try on a model whether the blocks below one can be computed once.

    They can where, on the start of a record and a part of it, to the bit,

    - nothing below trains, draws random numbers or differs between training and evaluation;
    - the model's last hidden states do not change when the blocks below hand on what came out of
      them before: an architecture whose blocks share more than hidden states shows it here.

    The state of the random number generators is that of before afterwards.

    Args:
        model: a causal language model, wrapped or not.
        first: the lowest block that is computed in every pass, above 0.
        rows: token ids of the records, int64 [S] each, at least one.

    Returns:
        What is to be known of the blocks, or why they must be computed in every pass.
    """
    net = unwrapped(model)
    device = next(net.parameters()).device
    longest = max(rows, key=len)[:_PROBE]
    probe = [longest, longest[: len(longest) // 2 + 1]]
    modes = [(module, module.training) for module in net.modules()]
    drawn = _random_states(device)
    try:
        net.eval()
        batch, blocks = _padded(probe, device), blocks_of(net)
        with (
            torch.no_grad(),
            block_outputs(net, {first - 1}) as seen,
            _tuple_widths(blocks) as lengths,
        ):
            whole = hidden_states(net, batch)
        below, widths = seen[first - 1], tuple(lengths[i] for i in range(len(blocks)))
        if below.dim() != 3 or below.shape[:2] != batch["input_ids"].shape:
            return "more than one vector a token goes from block to block"
        net.train()
        trained = _training_pass(net, first, widths, batch)
        if trained.requires_grad:
            return "weights below them train (embeddings, perhaps)"
        drew = not all(map(torch.equal, _random_states(device), drawn))
        if drew or not torch.equal(trained, below):
            return "dropout, or something else that only training does, happens below"
        net.eval()
        with torch.no_grad(), passing(blocks[:first], widths, below):
            again = hidden_states(net, batch)
        real = batch["attention_mask"].bool()
        if not torch.equal(whole[real], again[real]):
            return "blocks above use more of those below than what comes out of them"
    finally:
        _set_random_states(device, drawn)
        for module, mode in modes:
            module.training = mode
    return Tried(widths, below.shape[-1] * below.element_size())


def _training_pass(
    net: Any, first: int, widths: tuple[int, ...], batch: Mapping[str, Tensor]
) -> Tensor:
    """Return what comes out below in training mode, with gradient where there is one."""
    with (
        torch.enable_grad(),
        block_outputs(net, {first - 1}) as seen,
        passing(blocks_of(net)[first:], widths[first:]),
    ):
        hidden_states(net, batch)
    return seen[first - 1]


def _random_states(device: torch.device) -> list[Tensor]:
    """Return the states of the generators that a forward pass draws from."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]


def _set_random_states(device: torch.device, states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


def _padded(rows: _Group, device: torch.device) -> dict[str, Tensor]:
    """Pad rows on the right."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


@torch.no_grad()
def _below(model: Any, first: int, widths: tuple[int, ...], rows: _Group) -> Tensor:
    """Compute what comes out of the frozen blocks, [B, S, H]."""
    net = unwrapped(model)
    with (
        block_outputs(net, {first - 1}) as seen,
        passing(blocks_of(net)[first:], widths[first:]),
    ):
        hidden_states(net, _padded(rows, next(net.parameters()).device))
    return seen[first - 1]


@contextlib.contextmanager
def _tuple_widths(blocks: nn.ModuleList) -> Iterator[dict[int, int]]:
    """Note the length of the tuple that each block returns, 0 for a tensor."""
    widths: dict[int, int] = {}

    def note(number: int) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            widths[number] = len(output) if isinstance(output, tuple) else 0

        return hook

    handles = [block.register_forward_hook(note(i)) for i, block in enumerate(blocks)]
    try:
        yield widths
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def passing(
    blocks: nn.ModuleList, widths: Sequence[int], last: Tensor | None = None
) -> Iterator[None]:
    """Let blocks hand on what they are given; the last one, `last` where it is told.

    Their `forward` is covered, not their place in the model: the model's code may ask a block for
    its attributes, and the state dictionary stays as it is. Hooks on them rest as well: they wait
    for what the blocks compute. A block above gets `last` as a plain argument, so recomputing it in
    the backward pass needs none of this.
    """
    resting = ("forward", "_forward_hooks", "_forward_pre_hooks")
    before = [{key: vars(block)[key] for key in resting if key in vars(block)} for block in blocks]
    try:
        for i, (block, width) in enumerate(zip(blocks, widths, strict=False)):
            value = last if i == len(blocks) - 1 else None
            nothing = {key: OrderedDict[int, Any]() for key in resting[1:]}
            vars(block).update(nothing, forward=_handing_on(value, width))
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            vars(block).pop("forward", None)
            vars(block).update(own)


def _handing_on(value: Tensor | None, width: int) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        hidden = given if value is None else value
        return (hidden, *[None] * (width - 1)) if width else hidden

    return forward
