"""Scale what an adapter changes, from dropping it to overshooting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from unlearn.errors import ModelError
from unlearn.model.lora import TRAINABLE
from unlearn.model.state import ModelState
from unlearn_eval.robustness.treatments.options import FACTORS
from unlearn_eval.robustness.treatments.treated import Examples, Setting, TreatedState, treated_by

__all__ = ["FACTORS", "scale", "scaled"]

# What an adapter may hold beside s·B·A; none of it is linear in s.
_NOT_SCALED = ("use_dora", "modules_to_save", "trainable_token_indices")


@contextlib.contextmanager
def scaled(state: ModelState, factor: float) -> Iterator[None]:
    """Let a state run as W + c·ΔW of its last adapter; adapters below stay as they are.

    ΔW = s·B·A is scaled through s, which is exact: at 0 the scores are those of what lies below, at
    1 those of the state, bit by bit.

    Raises ModelError if there is no adapter, or it is not plain LoRA.
    """
    from peft.tuners.lora import LoraLayer

    if not state.stack:
        raise ModelError("scaling needs an adapter: a full fine-tune has no change to scale")
    config = state.model.peft_config[TRAINABLE]
    for key in _NOT_SCALED:
        if getattr(config, key, None):
            raise ModelError(
                f"scaling needs plain LoRA: this adapter has {key}, whose change does not scale"
            )
    lora = [m for m in state.model.modules() if isinstance(m, LoraLayer)]
    layers = [layer for layer in lora if TRAINABLE in layer.scaling]
    scales = [layer.scaling[TRAINABLE] for layer in layers]
    try:
        for layer, value in zip(layers, scales, strict=True):
            layer.scaling[TRAINABLE] = factor * value
        yield
    finally:
        for layer, value in zip(layers, scales, strict=True):
            layer.scaling[TRAINABLE] = value


def scale(
    state: ModelState, examples: Examples, setting: Setting, factors: Sequence[float] = FACTORS
) -> Iterator[TreatedState]:
    """Score a state with its adapter scaled.

    Args:
        state: the state, as before afterwards.
        examples: the records.
        setting: not used.
        factors: c of each; the choice of factors is this project's.

    Yields:
        A treated state a factor.
    """
    for factor in factors:
        treatment, params = scaled(state, factor), {"factor": factor}
        yield treated_by(treatment, state, examples, f"scale={factor:g}", params)
