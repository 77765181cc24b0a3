"""A model without its weights: shapes alone, on the meta device, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from unlearn.errors import ModelError
from unlearn.model.blocks import blocks_of
from unlearn.model.folders import one_line
from unlearn.model.held import bytes_of
from unlearn.model.lm_head import Head, unwrapped
from unlearn.model.lora import TRAINABLE, activate, in_blocks
from unlearn.model.number_format import dtype_of
from unlearn.model.opening import Opening
from unlearn.model.quiet import quiet

__all__ = ["Weightless", "weightless"]

_BLOCK = 64  # weights that share a scale, as `unlearn.model.number_format.nf4` asks for


@dataclass(frozen=True)
class Weightless:
    """Shapes of a model, with or without adapters.

    Attributes:
        model: the model, or the `PeftModel` around it, on the meta device.
        head: its output projection.
        parameters: of the base and its adapters; those of a quantised base as many as before.
        weights: bytes of the base.
        adapters: bytes of the adapters.
        dtype: what the base computes in.
    """

    model: Any
    head: Head
    parameters: int
    weights: int
    adapters: int
    dtype: torch.dtype

    @property
    def trainable(self) -> int:
        """How many parameters train."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def max_length(self) -> int:
        """The longest sequence the model takes, in tokens."""
        config = unwrapped(self.model).config.get_text_config()
        names = ("max_position_embeddings", "n_positions")
        return int(next(filter(None, (getattr(config, name, 0) for name in names)), 1 << 20))


def weightless(
    folder: Path,
    opening: Opening,
    place: torch.device,
    adapters: Sequence[Mapping[str, Any]] = (),
) -> Weightless:
    """Return the shapes of a model; only its `config.json` is read.

    Args:
        folder: the model's folder.
        opening: in which number format it would be opened.
        place: where it would go.
        adapters: keyword arguments of `peft.LoraConfig`, the frozen ones first. The last trains;
            without any the whole model does.

    Returns:
        The shapes.

    Raises:
        ModelError: if no model can be made of the configuration.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a model: it has no config.json")
    trusted = opening.trust_remote_code
    kind = dtype_of(opening.dtype, place)
    try:
        with quiet(), torch.device("meta"):
            config = AutoConfig.from_pretrained(
                folder, trust_remote_code=trusted, local_files_only=True
            )
            net = AutoModelForCausalLM.from_config(config, dtype=kind, trust_remote_code=trusted)
    except Exception as error:  # whatever a configuration that transformers cannot read leads to
        raise ModelError(
            f"cannot make a model of {folder}/config.json: {one_line(error)}"
        ) from error
    parameters = sum(p.numel() for p in net.parameters())
    if opening.load_in_4bit:
        _quantise(net, kind)
    weights = bytes_of([*net.parameters(), *net.buffers()])
    if adapters:
        net = _with_adapters(net, adapters, folder)
    own = bytes_of([*net.parameters(), *net.buffers()]) - weights
    added = sum(p.numel() for n, p in net.named_parameters() if ".lora_" in n)
    head = Head(unwrapped(net).get_output_embeddings())
    return Weightless(net, head, parameters + added, weights, own, kind)


def _with_adapters(net: Any, adapters: Sequence[Mapping[str, Any]], folder: Path) -> Any:
    """Put adapters on a base without weights, the last of which trains."""
    from peft import LoraConfig, get_peft_model

    net.requires_grad_(False)
    names = [*(f"frozen{i}" for i in range(len(adapters) - 1)), TRAINABLE]
    try:
        with quiet(), torch.device("meta"):
            for i, (name, shape) in enumerate(zip(names, adapters, strict=True)):
                config = LoraConfig(task_type="CAUSAL_LM", **in_blocks(net, dict(shape)))
                if i == 0:
                    net = get_peft_model(net, config, adapter_name=name)
                else:
                    net.add_adapter(name, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"no LoRA adapter fits {folder}: {one_line(error)}") from error
    if len(names) > 1:
        activate(net, names, trainable=True)
    return net


def _quantise(net: Any, computed_in: torch.dtype) -> None:
    """Put shapes of NF4 codes in the place of the blocks' matrices."""
    for block in blocks_of(net):
        for parent in list(block.modules()):
            for name, old in list(parent.named_children()):
                if type(old) in {nn.Linear, Conv1D}:
                    setattr(parent, name, _Codes(old, computed_in))


class _Codes(nn.Linear):
    """A linear layer whose weights are half a byte each, and a float32 scale for every 64."""

    def __init__(self, old: Any, computed_in: torch.dtype) -> None:
        nn.Module.__init__(self)
        turned = isinstance(old, Conv1D)  # GPT-2's, whose weights lie the other way round
        sizes = (old.nx, old.nf) if turned else (old.in_features, old.out_features)
        self.in_features, self.out_features = sizes
        size, self._kind = old.weight.numel(), computed_in
        codes = torch.empty((size + 1) // 2, 1, dtype=torch.uint8, device="meta")
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_parameter("bias", old.bias)
        self.register_buffer("scales", torch.empty(-(-size // _BLOCK), device="meta"))

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply by weights that are put back for this product, and again in its backward."""
        shape = (self.out_features, self.in_features)
        result: Tensor = _Product.apply(inputs.to(self._kind), shape)  # type: ignore[no-untyped-call]
        return (result if self.bias is None else result + self.bias).to(inputs.dtype)


class _Product(torch.autograd.Function):
    """x Wᵀ, with W made for the forward pass, and anew for the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return torch.nn.functional.linear(inputs, inputs.new_empty(shape))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return gradient @ gradient.new_empty(ctx.shape), None
