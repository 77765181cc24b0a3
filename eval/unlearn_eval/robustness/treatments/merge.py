"""Merge the adapter into the base and cast to bfloat16, the form in which models are shipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from unlearn.model.state import ModelState
from unlearn_eval.robustness.treatments.treated import Examples, Setting, TreatedState, treated_by
from unlearn_eval.robustness.treatments.weights import rewritten

__all__ = ["cast_bf16", "merge_bf16", "merged_bf16"]


def cast_bf16(value: Tensor) -> Tensor:
    """Round float32 to the nearest bfloat16 and back: 8 significant bits, ties to even."""
    return value.to(torch.bfloat16).float()


@contextlib.contextmanager
def merged_bf16(state: ModelState) -> Iterator[None]:
    """Let a state run with all weights merged and rounded to bfloat16; see `rewritten`.

    Activations and arithmetic stay in the precision in which the model was opened, and reductions
    in float32, so that only what the cast does to the weights is measured. The merge is in float32
    and is cast once.

    Raises ModelError if the weights are quantised already.
    """

    def change(module: nn.Module, name: str, value: Tensor) -> Tensor:
        return cast_bf16(value)

    with rewritten(state, change):
        yield


def merge_bf16(state: ModelState, examples: Examples, setting: Setting) -> Iterator[TreatedState]:
    """Score a state merged and cast to bfloat16."""
    params = {"dtype": "bfloat16"}
    yield treated_by(merged_bf16(state), state, examples, "merged bf16", params)
