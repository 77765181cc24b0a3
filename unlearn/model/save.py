"""Write an opened model or its adapter into a folder, as plain PEFT and transformers read it.

A checkpoint's weights are read back into the state that they were written from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unlearn.errors import ModelError
from unlearn.model.lora import TRAINABLE
from unlearn.model.quiet import quiet
from unlearn.provenance.digests import weight_files

if TYPE_CHECKING:
    from unlearn.model.state import ModelState

__all__ = ["load_trained", "save_state"]

_GENERATION = "generation_config.json"


def save_state(state: ModelState, folder: Path) -> None:
    """Write the weights of a state, and the tokenizer where it is not the base's, see `save`."""
    for name, parameter in state.model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"the trained tensor {name} holds NaN or infinity; nothing saved")
    with quiet():
        if state.stack:
            embeddings = "auto" if state.saves_embeddings is None else state.saves_embeddings
            state.model.save_pretrained(
                folder, selected_adapters=[TRAINABLE], save_embedding_layers=embeddings
            )
        else:
            _save_model(state, folder)
        if not state.stack or (state.reading and state.reading.adapter):
            state.tokenizer.save_pretrained(folder)


def _save_model(state: ModelState, folder: Path) -> None:
    """Write a whole model; how it is to generate stays as its folder says, whatever that is."""
    from transformers import GenerationConfig

    config = state.model.generation_config
    state.model.generation_config = GenerationConfig()  # transformers refuses to save odd ones
    try:
        state.model.save_pretrained(folder)
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
