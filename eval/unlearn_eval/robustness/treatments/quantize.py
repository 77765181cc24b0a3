"""Round a model's weights to few bits, as deployment does, and see what that brings back.

The adapter is merged first. The linear layers of the transformer blocks are rounded; embeddings,
norms, biases and the output projection stay, as bitsandbytes, GPTQ and AWQ leave them. Activations
and arithmetic stay in the precision in which the model was opened, so that what is measured is the
rounding of the weights alone, on any device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from unlearn.errors import ModelError
from unlearn.model.blocks import blocks_of
from unlearn.model.state import ModelState
from unlearn_eval.robustness.treatments.options import GROUPS
from unlearn_eval.robustness.treatments.treated import Examples, Setting, TreatedState, treated_by
from unlearn_eval.robustness.treatments.weights import rewritten

__all__ = ["GROUPS", "int4", "int8", "nf4", "round_nf4", "round_symmetric", "rounded"]

_NF4_BLOCK = 64

# QLoRA (2305.14314), appendix E: quantiles of N(0, 1), scaled to [−1, 1], with an exact zero.
_NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def round_symmetric(weight: Tensor, bits: int, group: int | None = None) -> Tensor:
    """Round to nearest on a symmetric grid scaled by the largest weight of each group.

    Formula: s = max|w| / (2^{b−1} − 1), w' = s · round(w / s), so |w' − w| ≤ s/2, and what lies on
    the grid is exact. A group of zeros stays zero. Ties go to the even level. The lowest level,
    −2^{b−1}, is not used: LLM.int8 (2208.07339, section 2) scales 8 bits by 127 likewise; AWQ
    (2306.00978, eq. 1) divides by 2^{b−1}, which clips the largest weight.

    Args:
        weight: float32 [out, in].
        bits: b, at least 2.
        group: consecutive inputs that share a scale, the last group of a row may be shorter; None
            for one scale a row (output channel).

    Returns:
        float32 [out, in].
    """
    top = 2 ** (bits - 1) - 1
    parts = [weight] if group is None else torch.split(weight, group, dim=-1)
    rounded_groups = []
    for part in parts:
        scale = part.abs().amax(dim=-1, keepdim=True) / top
        levels = torch.where(scale > 0, part / scale, 0).round().clamp(-top, top)
        rounded_groups.append(levels * scale)
    return torch.cat(rounded_groups, dim=-1)


def round_nf4(weight: Tensor) -> Tensor:
    """Round to the nearest of the 16 values of NormalFloat times the largest weight of a block.

    Blocks are 64 weights in the order of memory, across rows, as bitsandbytes cuts them. The scales
    stay in float32: QLoRA's second quantisation, of the scales, is left out.

    Args:
        weight: float32, any shape.

    Returns:
        float32 of the same shape.

    Source: QLoRA (2305.14314), section 3; values from appendix E.
    """
    levels = torch.tensor(_NF4, device=weight.device, dtype=torch.float32)
    borders = (levels[1:] + levels[:-1]) / 2
    flat = weight.reshape(-1)
    rounded_blocks = []
    for block in torch.split(flat, _NF4_BLOCK * 4096):  # a bounded temporary, in whole blocks
        padded = nn.functional.pad(block, (0, -len(block) % _NF4_BLOCK)).view(-1, _NF4_BLOCK)
        largest = padded.abs().amax(dim=-1, keepdim=True)
        unit = torch.where(largest > 0, padded / largest, 0)
        rounded_blocks.append(
            (levels[torch.bucketize(unit, borders)] * largest).view(-1)[: len(block)]
        )
    return torch.cat(rounded_blocks).view_as(weight)


@contextlib.contextmanager
def rounded(state: ModelState, how: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a state run with merged and rounded weights; see `rewritten` for what that costs.

    Args:
        state: the state.
        how: rounds one weight matrix, float32 [out, in].

    Yields:
        Nothing.

    Raises:
        ModelError: if the weights are quantised already, or most of them are not in linear layers.
    """
    from transformers.pytorch_utils import Conv1D

    inside = {id(module) for module in blocks_of(state.model).modules()}
    weights = in_linear_layers = 0

    def change(module: nn.Module, name: str, value: Tensor) -> Tensor | None:
        nonlocal weights, in_linear_layers
        if id(module) not in inside or value.dim() < 2:
            return None
        weights += value.numel()
        if name != "weight" or not isinstance(module, (nn.Linear, Conv1D)):
            return None
        in_linear_layers += value.numel()
        # GPT-2's Conv1D stores [in, out]
        return how(value.T).T if isinstance(module, Conv1D) else how(value)

    with rewritten(state, change):
        if in_linear_layers <= weights / 2:
            raise ModelError(
                f"rounding finds only {in_linear_layers:,} of {weights:,} weights of the blocks in "
                "linear layers; models that keep them elsewhere, as mixtures of experts do, are "
                "not supported here"
            )
        yield


def int8(state: ModelState, examples: Examples, setting: Setting) -> Iterator[TreatedState]:
    """Score a state in 8 bits, one scale an output channel."""
    treatment = rounded(state, lambda weight: round_symmetric(weight, 8))
    yield treated_by(treatment, state, examples, "int8", {"bits": 8})


def int4(
    state: ModelState, examples: Examples, setting: Setting, groups: Sequence[int] = GROUPS
) -> Iterator[TreatedState]:
    """Score a state in 4 bits, with a scale for each group of weights."""
    for group in groups:
        treatment = rounded(state, partial(round_symmetric, bits=4, group=group))
        params = {"bits": 4, "group": group}
        yield treated_by(treatment, state, examples, f"int4 group={group}", params)


def nf4(state: ModelState, examples: Examples, setting: Setting) -> Iterator[TreatedState]:
    """Score a state in NormalFloat 4."""
    params = {"bits": 4, "block": _NF4_BLOCK}
    yield treated_by(rounded(state, round_nf4), state, examples, "nf4", params)
