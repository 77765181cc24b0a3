"""The number format of a base model."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from unlearn.errors import ModelError

__all__ = ["dtype_of", "keep_codes", "nf4"]


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


def nf4(place: torch.device, computed_in: torch.dtype) -> Any:
    """Return how a base is quantised on load, as `transformers` takes it.

    Args:
        place: where the model goes: a CPU or a CUDA device.
        computed_in: the type to which weights are put back for each product.

    Returns:
        The `BitsAndBytesConfig`: NF4 (2305.14314, section 3) in blocks of 64 weights with a float32
        scale each. Norms, embeddings and the output projection stay as they are.

    Raises:
        ModelError: if there is no bitsandbytes, or it does not compute there.
    """
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "--load-in-4bit: bitsandbytes is not installed: in a clone of unlearn, pip install "
            "'.[quant]'"
        )
    if place.type not in {"cpu", "cuda"}:
        raise ModelError(f"a 4-bit base runs on a CPU or with CUDA, not on {place.type}")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computed_in
    )


def keep_codes(net: Any) -> None:
    """Let scoring leave a quantised base as it is.

    On CPUs with bfloat16 products bitsandbytes packs the codes anew at the first pass without
    gradient, and rounds their scales to bfloat16: the same training would give other bits after a
    look at the model than without one.

    Args:
        net: a model that was quantised on load.
    """
    for module in net.modules():
        if hasattr(module, _PACKS):
            setattr(module, _PACKS, False)


_PACKS = "support_avx512bf16_for_cpu"
