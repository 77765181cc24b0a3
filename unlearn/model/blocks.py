"""The transformer blocks of a model: look at what comes out of them, and train only some."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn

from unlearn.config import block_numbers
from unlearn.errors import ModelError, OptionError
from unlearn.model.lm_head import unwrapped

__all__ = [
    "block_outputs",
    "blocks_of",
    "blocks_that_can_train",
    "only_blocks",
    "parse_blocks",
    "set_checkpointing",
    "shifted_block",
]


def blocks_of(model: Any) -> nn.ModuleList:
    """Return a model's transformer blocks, first to last.

    They are the list of as many modules as the configuration says the model has hidden layers,
    whatever the architecture calls it.

    Args:
        model: a causal language model, wrapped or not.

    Returns:
        The blocks.

    Raises:
        ModelError: if there is no such list.
    """
    inner = unwrapped(model)
    depth = inner.config.get_text_config().num_hidden_layers
    for module in inner.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"{type(inner).__name__}: cannot find its {depth} blocks")


@contextlib.contextmanager
def block_outputs(model: Any, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the hidden states that come out of some blocks during a forward pass.

    Args:
        model: a causal language model, wrapped or not.
        layers: which blocks; the first is 0.

    Yields:
        A dictionary that the forward pass fills: block → [B, S, H].
    """
    outputs: dict[int, Tensor] = {}
    blocks = blocks_of(model) if layers else nn.ModuleList()

    def keep(layer: int) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            outputs[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def shifted_block(
    model: Any, layer: int, offset: Tensor, *, detach: bool = False
) -> Iterator[None]:
    """Add something to what comes out of a block.

    Gradients must be taken inside: a block whose activations are recomputed in the backward pass
    runs again there.

    Args:
        model: a causal language model, wrapped or not.
        layer: which block; the first is 0.
        offset: what to add, [B, S, H].
        detach: let no gradient reach the block and those below.

    Yields:
        Nothing.
    """

    def hook(_: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        shifted = (hidden.detach() if detach else hidden) + offset.to(hidden.dtype)
        return (shifted, *output[1:]) if isinstance(output, tuple) else shifted

    handle = blocks_of(model)[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def set_checkpointing(model: Any, on: bool) -> None:
    """Recompute activations of blocks in the backward pass, or stop doing so.

    Args:
        model: a causal language model, wrapped or not.
        on: which of the two.
    """
    inner = unwrapped(model)
    # transformers 5.23 renamed "gradient" to "activation" checkpointing
    word = "activation" if hasattr(inner, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(inner, f"{word}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(inner, f"{word}_checkpointing_disable")()


def parse_blocks(text: str, depth: int, option: str = "train_layers") -> set[int]:
    """Parse `5-7,9` into the numbers of blocks that a model has.

    Args:
        text: numbers and ranges; the first block is 0.
        depth: how many blocks there are.
        option: whose value it is, for messages.

    Returns:
        The numbers.

    Raises:
        OptionError: for anything else, or a block that the model lacks.
    """
    layers = block_numbers(text, option)
    if not layers or max(layers) >= depth:
        raise OptionError(f"{option} {text!r}: the model has {depth} blocks, 0 to {depth - 1}")
    return layers


def blocks_that_can_train(model: Any) -> list[int]:
    """Return the numbers of the blocks of a model that hold weights that train, in order."""
    parameters = (block.parameters() for block in blocks_of(model))
    return [i for i, own in enumerate(parameters) if any(p.requires_grad for p in own)]


@contextlib.contextmanager
def only_blocks(model: Any, layers: Collection[int] | None) -> Iterator[None]:
    """Let only some blocks train; what trained before does so again afterwards.

    Args:
        model: a causal language model, wrapped or not.
        layers: the blocks that train; None for no restriction.

    Yields:
        Nothing.

    Raises:
        OptionError: if nothing in those blocks is trainable.
    """
    if layers is None:
        yield
        return
    blocks = blocks_of(model)
    chosen = {id(p) for layer in layers for p in blocks[layer].parameters()}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    if not any(p.requires_grad for layer in layers for p in blocks[layer].parameters()):
        raise OptionError(
            f"train_layers: blocks {sorted(layers)} hold nothing that this adapter trains"
        )
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
