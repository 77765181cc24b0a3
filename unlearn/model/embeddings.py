"""Embeddings that an adapter brings along: tokens were added, and the base's embeddings resized."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from unlearn.errors import ModelError

__all__ = [
    "adapter_rows",
    "check_frozen_rows",
    "check_shipped",
    "embedding_rows",
    "resize",
    "tensor_shapes",
]

_PREFIX = "base_model.model."

# Where PEFT puts embeddings that do not train, by what else is done to them.
_FROZEN = (
    "weight",
    "base_layer.weight",
    "original_module.weight",
    "token_adapter.base_layer.weight",
)


def embedding_rows(net: Any) -> int:
    """Return for how many tokens a model has embeddings, those of its output included."""
    return min(module.weight.shape[0] for _, module in _embeddings(net))


def adapter_rows(net: Any, path: Path) -> int | None:
    """Return for how many tokens an adapter was made; None where its tensors do not tell.

    Args:
        net: the bare base.
        path: the adapter's folder.

    Returns:
        The rows of the embeddings that it ships, or of the factors on them.
    """
    shapes = tensor_shapes(path)
    for name, module in _embeddings(net):
        width = module.weight.shape[1]
        for key, shape in shapes.items():
            part = key.removeprefix(f"{_PREFIX}{name}.")
            if part == key or len(shape) != 2:
                continue
            if ".lora_" not in key and part.endswith("weight") and shape[1] == width:
                return shape[0]
            if part.startswith("lora_embedding_A"):
                return shape[1]
            if part.startswith("lora_B") and module is net.get_output_embeddings():
                return shape[0]
    return None


def check_shipped(net: Any, path: Path) -> None:
    """Refuse an adapter made for other embeddings than the base's that does not ship them."""
    shapes = tensor_shapes(path)
    for name, module in _embeddings(net):
        keys = [key for key in shapes if key.startswith(f"{_PREFIX}{name}.")]
        if keys and all(".lora_" in key for key in keys):
            raise ModelError(
                f"the adapter {path} was made for another number of tokens than this model has "
                f"({module.weight.shape[0]}), and ships no embeddings for them: save it with "
                "save_embedding_layers=True"
            )


def resize(net: Any, rows: int) -> None:
    """Give a bare model embeddings for more or fewer tokens, the same ones each time.

    A new row is drawn around the mean of the others with their spread, so that it stands out from
    them no more than they do from each other (Hewitt 2021, "Initializing new word embeddings").

    Args:
        net: the bare base.
        rows: how many it has afterwards.
    """
    before = net.get_input_embeddings().weight.shape[0]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net.resize_token_embeddings(rows, mean_resizing=False)
        weights = {id(module.weight): module.weight for _, module in _embeddings(net)}
        for weight in weights.values():
            if rows > before:
                old = weight[:before].float()
                noise = torch.randn(rows - before, weight.shape[1]).to(old.device)
                weight[before:] = (old.mean(0) + old.std(0) * noise).to(weight.dtype)
    net.requires_grad_(False)


def check_frozen_rows(net: Any, path: Path, config: dict[str, Any], rows: int) -> None:
    """Refuse embeddings that would take the place of the base's own, and differ from these.

    What trains embeddings with PEFT's `modules_to_save` has a copy of its own, and can be switched
    off; embeddings that were saved because tokens were added are the base's, with more rows.

    Args:
        net: the bare base, resized.
        path: the adapter's folder.
        config: the adapter's configuration.
        rows: of the base before it was resized.

    Raises:
        ModelError: naming the tensor.
    """
    own = {name.rpartition(".")[2] for name in config.get("modules_to_save") or ()}
    shapes = tensor_shapes(path)
    for name, module in _embeddings(net):
        keys = [key for part in _FROZEN if (key := f"{_PREFIX}{name}.{part}") in shapes]
        if name.rpartition(".")[2] in own:
            continue
        for key in keys:
            if shapes[key] == tuple(module.weight.shape) and not _same_rows(
                _tensor(path, key), module.weight, rows
            ):
                raise ModelError(
                    f"the adapter {path} was made for another base than this model, or changed "
                    f"its embeddings in place ({key}); embeddings that train go to modules_to_save"
                )


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of an adapter, from the head of its file."""
    with safetensors.safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _embeddings(net: Any) -> Iterator[tuple[str, nn.Embedding | nn.Linear]]:
    """Yield the input and output embeddings of a bare model with their names."""
    modules = [net.get_input_embeddings(), net.get_output_embeddings()]
    for name, module in net.named_modules():
        if any(module is each for each in modules) and getattr(module, "weight", None) is not None:
            yield name, module


def _tensor(folder: Path, name: str) -> torch.Tensor:
    with safetensors.safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor


# Numbers of float16 near zero are this far apart, whatever their size.
_TINY = 6e-8


def _same_rows(shipped: torch.Tensor, own: torch.Tensor, rows: int) -> bool:
    """Compare the rows that both have, as exactly as the coarser number format can tell."""
    rows = min(rows, len(own))
    coarser = max(shipped.dtype, own.dtype, key=lambda kind: torch.finfo(kind).eps)
    a, b = (t[:rows].to("cpu", coarser).float() for t in (shipped, own.detach()))
    return bool(torch.allclose(a, b, rtol=torch.finfo(coarser).eps, atol=_TINY))
