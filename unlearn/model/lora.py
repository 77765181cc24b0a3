"""Put adapters from disk on a base that is in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.errors import ModelError
from unlearn.model.blocks import blocks_of, parse_blocks
from unlearn.model.folders import one_line

__all__ = [
    "TRAINABLE",
    "Switched",
    "activate",
    "attach",
    "in_blocks",
    "saved_tensors",
    "ships_embeddings",
    "switched",
]

TRAINABLE = "default"  # PEFT saves the adapter of this name at the folder's root


def attach(net: Any, path: Path, name: str, *, trainable: bool) -> Any:
    """Load one adapter, turning PEFT's many ways to say 'does not fit' into one error.

    Args:
        net: the base, or the PEFT model around it.
        path: the adapter's folder.
        name: under which it is known from now on.
        trainable: let gradients reach it.

    Returns:
        The PEFT model.

    Raises:
        ModelError: if its weights are not those of the model's layers.
    """
    from peft import PeftModel

    problem = f"the adapter {path} was made for another base than this model"
    try:
        if isinstance(net, PeftModel):
            result = net.load_adapter(str(path), adapter_name=name, is_trainable=trainable)
            missing = list(result.missing_keys)
        else:
            net = PeftModel.from_pretrained(
                net, str(path), adapter_name=name, is_trainable=trainable
            )
            missing = []
    except Exception as error:  # whatever a configuration that PEFT cannot read leads to
        raise ModelError(f"{problem}: {one_line(error)}") from error
    with_weights = _adapter_keys(path)
    expected = {
        key.replace(f".{name}.", ".").removesuffix(f".{name}")
        for key in net.state_dict()
        if _is_factor(key) and f".{name}" in key
    }
    lost = sorted(expected - with_weights)
    unused = sorted(k for k in with_weights - expected if _is_factor(k))
    if lost or unused or any(map(_is_factor, missing)):
        example = (lost or unused or missing)[0]
        raise ModelError(f"{problem}: its weights and the model's layers differ ({example})")
    return net


def saved_tensors(
    net: Any, *, embeddings: bool | str, weights: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return what PEFT would save of the adapter that trains, by name.

    Args:
        net: a PEFT model.
        embeddings: with embeddings that do not train; `auto` leaves it to PEFT.
        weights: to choose from, by name in the model; by default its own.

    Returns:
        The tensors, not copied.
    """
    from peft import get_peft_model_state_dict

    tensors: dict[str, Tensor] = get_peft_model_state_dict(
        net, state_dict=weights, adapter_name=TRAINABLE, save_embedding_layers=embeddings
    )
    return tensors


def ships_embeddings(net: Any, path: Path) -> bool:
    """Say whether the adapter of a folder was saved with embeddings that do not train."""
    with_them = saved_tensors(net, embeddings=True)
    own = set(with_them) - set(saved_tensors(net, embeddings=False))
    return bool(own & _adapter_keys(path))


def activate(net: Any, names: Sequence[str], trainable: bool) -> None:
    """Make several adapters active at once, only the last one trainable.

    Args:
        net: a PEFT model.
        names: of the adapters.
        trainable: let gradients reach the one named `TRAINABLE`.
    """
    net.base_model.set_adapter(list(names))
    for key, parameter in net.named_parameters():
        parameter.requires_grad_(trainable and f".{TRAINABLE}" in key)


def _is_factor(key: str) -> bool:
    return any(part in key for part in (".lora_A", ".lora_B", ".lora_embedding_"))


def _adapter_keys(path: Path) -> set[str]:
    import safetensors

    with safetensors.safe_open(path / "adapter_model.safetensors", framework="pt") as file:
        return set(file.keys())


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
        """Return the logits under the other adapter."""
        with torch.no_grad(), switched(self.module, self.names):
            logits: Tensor = self.module(hidden)
        return logits


def in_blocks(net: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Name the layers of an adapter that lies in some blocks only: PEFT wants a list there."""
    from transformers.pytorch_utils import Conv1D

    chosen = config.get("layers_to_transform")
    if chosen is None:
        return config
    numbers = [chosen] if isinstance(chosen, int) else chosen
    blocks, text = blocks_of(net), ",".join(map(str, numbers))
    parse_blocks(text, len(blocks), "layers_to_transform")  # PEFT passes over those that are not
    if str(config.get("target_modules")).lower() != "all-linear":
        return config
    names = {
        name.rpartition(".")[2]
        for number in numbers
        for name, module in blocks[number].named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return {**config, "target_modules": sorted(names)}
