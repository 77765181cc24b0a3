"""Write an opened model or its adapter into a folder, as plain PEFT and transformers read it.

A checkpoint's weights are read back into the state that they were written from.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from unlearn.errors import ModelError
from unlearn.model.lora import TRAINABLE, saved_tensors
from unlearn.model.quiet import quiet
from unlearn.provenance.digests import weight_files

if TYPE_CHECKING:
    from unlearn.model.state import ModelState

__all__ = ["load_trained", "save_state", "whole_weights"]

_GENERATION = "generation_config.json"


def whole_weights(state: ModelState) -> Mapping[str, Tensor] | None:
    """Gather what is saved of a state from the slices of all processes, called in all of them.

    Args:
        state: the state.

    Returns:
        The tensors by name in the model, on the CPU; None where this process holds them whole.
    """
    named = state.model.state_dict(keep_vars=True)
    if not any(isinstance(tensor, DTensor) for tensor in named.values()):
        return None
    if state.stack:
        kept = saved_tensors(state.model, embeddings=_embeddings(state), weights=named)
        ours = {id(tensor) for tensor in kept.values()}
        named = {name: tensor for name, tensor in named.items() if id(tensor) in ours}
    whole: dict[int, Tensor] = {}  # tied ones stay one
    for tensor in named.values():
        if id(tensor) not in whole:
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            whole[id(tensor)] = full.detach().cpu()
    return {name: whole[id(tensor)] for name, tensor in named.items()}


def save_state(
    state: ModelState, folder: Path, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write the weights of a state, and the tokenizer where it is not the base's, see `save`."""
    named = state.model.named_parameters()
    for name, tensor in (weights or {n: p for n, p in named if p.requires_grad}).items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"the trained tensor {name} holds NaN or infinity; nothing saved")
    with quiet():
        if state.stack:
            state.model.save_pretrained(
                folder,
                selected_adapters=[TRAINABLE],
                save_embedding_layers=_embeddings(state),
                state_dict=weights,
            )
        else:
            _save_model(state, folder, weights)
        if not state.stack or (state.reading and state.reading.adapter):
            state.tokenizer.save_pretrained(folder)


def _embeddings(state: ModelState) -> bool | str:
    """Return whether embeddings that do not train are saved, in PEFT's words."""
    return "auto" if state.saves_embeddings is None else state.saves_embeddings


def _save_model(state: ModelState, folder: Path, weights: Mapping[str, Tensor] | None) -> None:
    """Write a whole model; how it is to generate stays as its folder says, whatever that is."""
    from transformers import GenerationConfig

    config = state.model.generation_config
    state.model.generation_config = GenerationConfig()  # transformers refuses to save odd ones
    try:
        state.model.save_pretrained(folder, state_dict=weights)
    finally:
        state.model.generation_config = config
    (folder / _GENERATION).unlink(missing_ok=True)
    if (state.folder / _GENERATION).is_file():
        shutil.copyfile(state.folder / _GENERATION, folder / _GENERATION)


def load_trained(state: ModelState, folder: Path) -> None:
    """Put the trained weights of a checkpoint back into an opened state.

    Args:
        state: the state as it was when training began.
        folder: a folder written by `ModelState.save`.
    """
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for path in weight_files(folder).values():
        weights |= load_file(path)
    if state.stack:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(state.model, weights, adapter_name=TRAINABLE)
    else:
        result = state.model.load_state_dict(weights, strict=False)
        tied = set(state.model.all_tied_weights_keys)
        if result.unexpected_keys or set(result.missing_keys) - tied:
            raise ModelError(f"the checkpoint {folder} does not fit the model {state.name}")
