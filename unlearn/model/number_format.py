"""The number format of a base model."""

from __future__ import annotations

from typing import Any

import torch

from unlearn.errors import ModelError

__all__ = ["dtype_of", "nf4"]


def dtype_of(name: str, place: torch.device) -> torch.dtype:
    """Return the data type of a base model.

    Args:
        name: `float32`, `bfloat16`, `float16` or `auto`, see `open_model`.
        place: where the model goes.

    Returns:
        The type.

    Raises:
        ModelError: if there is no such type.
    """
    if name == "auto":
        good = place.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if good else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ModelError(f"unknown dtype {name!r}; choose auto, {', '.join(known)}")
    return known[name]


def nf4(place: torch.device) -> Any:
    """Return how a base is quantised on load; raises ModelError where it cannot be."""
    if place.type != "cuda":
        raise ModelError("a 4-bit base needs a CUDA device and the bitsandbytes package")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
