"""How much records say about each row of the weights that an adapter changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.data.batching import collate, token_budget_batches
from unlearn.data.tokenization import Example
from unlearn.errors import ModelError
from unlearn.model.lora import TRAINABLE
from unlearn.model.scoring import log_prob, target_positions
from unlearn.model.state import ModelState

__all__ = ["lora_layers", "row_information"]

# Padded tokens of a batch: whole logits are needed here, and several times their size.
_TOKENS = 512


def lora_layers(state: ModelState) -> dict[str, Any]:
    """Return the linear layers that a state's trainable LoRA adapter changes, by name."""
    return {
        name: module
        for name, module in state.model.named_modules()
        if TRAINABLE in getattr(module, "lora_A", {})
    }


def row_information(state: ModelState, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Return the Fisher information of each row of each adapted weight, summed over its entries.

    F_i = Σ_x |y_x| Σ_j ḡ_x,ij² / Σ_x |y_x|, with ḡ_x the gradient of record x's mean token loss in
    the effective weight W + ΔW [out, in] and |y_x| its target tokens: the empirical Fisher
    information as the original code of LoKU weighs it (2408.06621), with batches of one record,
    for the square of a batch's mean gradient would depend on which records meet in it.

    The gradient of a weight is Σ_t g_t h_tᵀ over the tokens of a record, with g the gradient of the
    layer's output and h its input, so that the squared norm of its row i is Σ_tu g_ti (h_t·h_u)
    g_ui: a pass costs no gradient of full size, and works on quantised weights.

    Args:
        state: an opened state with a trainable adapter; unchanged.
        examples: the records.

    Returns:
        Layer → float64 [out], on the CPU.

    Raises:
        ModelError: if a layer does not see whole records, as experts do.
    """
    layers = lora_layers(state)
    total = {
        name: torch.zeros(layer.lora_B[TRAINABLE].weight.shape[0], dtype=torch.float64)
        for name, layer in layers.items()
    }
    weights = [p for p in state.model.parameters() if p.requires_grad]
    mode = state.model.training
    state.model.eval()
    try:
        with _watched(layers, total):
            for batch in token_budget_batches([len(e.ids) for e in examples], _TOKENS):
                inputs = collate([examples[i] for i in batch])
                inputs = {k: v.to(state.device) for k, v in inputs.items()}
                loss = _root_weighted_loss(state.model, inputs)
                torch.autograd.grad(loss, weights, allow_unused=True)
    finally:
        state.model.train(mode)
    tokens = sum(e.targets for e in examples)
    return {name: rows / tokens for name, rows in total.items()}


def _root_weighted_loss(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return Σ_x l_x / √|y_x|, whose gradient in record x, squared, is |y_x|·ḡ_x²."""
    row, position, target = target_positions(inputs)
    keep = ("input_ids", "attention_mask")
    logits = model(**{k: inputs[k] for k in keep}, use_cache=False).logits
    loss = -log_prob(logits[row, position].float(), target)
    return (loss / row.bincount()[row].sqrt()).sum()


@contextlib.contextmanager
def _watched(layers: dict[str, nn.Module], total: dict[str, Tensor]) -> Iterator[None]:
    """Add up the squared norms of the rows of each layer's gradient, record by record."""

    def watch(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs = args[0].detach().float()
            if inputs.dim() != 3:
                raise ModelError(
                    f"loku: the layer {name} does not see whole records (a mixture of experts?), "
                    "so their information cannot be told apart"
                )

            def take(gradient: Tensor) -> None:
                g = gradient.float()
                rows = (inputs @ inputs.mT @ g * g).sum(1).clamp(min=0)  # [B, out]
                total[name] += rows.double().sum(0).cpu()

            output.register_hook(take)  # type: ignore[no-untyped-call]

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
