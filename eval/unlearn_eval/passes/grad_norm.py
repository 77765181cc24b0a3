"""The norm of each record's own gradient, for a batch of records in one backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlearn.data.batching import collate, token_budget_batches
from unlearn.data.tokenization import Example
from unlearn.errors import DataError, ModelError
from unlearn.model.lora import TRAINABLE
from unlearn.model.scoring import (
    TOKEN_BUDGET,
    Head,
    hidden_states,
    log_prob,
    target_positions,
    token_values,
)
from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership import grad_norm
from unlearn_eval.passes.base import AuditedState, Material, PassResult, PlannedPass
from unlearn_eval.passes.likelihoods import check_targets
from unlearn_eval.scores.cache import Cache, examples_digest
from unlearn_eval.scores.measures import Measurement
from unlearn_eval.scores.processes import sharded
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["gradient_norms", "plan", "trained"]


def plan(material: Material) -> PlannedPass:
    """Plan the pass of an audit: gradient norms of the forget records and the holdout.

    Args:
        material: what the audit has.

    Returns:
        The pass. The base has no weights that were trained, and so no gradient norm.
    """
    sides = material.sides()

    def run(audited: AuditedState, scores: Mapping[str, TokenScores], cache: Cache) -> PassResult:
        result = PassResult()
        if audited.key == "base":
            return result
        for split, part in sides.items():
            facts = ("grad_norm", audited.stamp, examples_digest(part), TOKEN_BUDGET)
            norms = cache.get(partial(_norms, audited, part), *facts)["norm"]
            result.add(split, Measurement("membership.grad_norm", "score", *_all(norms)))
        return result

    return PlannedPass(run, sum(map(len, sides.values())))


def _norms(audited: AuditedState, part: Sequence[Example]) -> dict[str, FloatArray]:
    return {"norm": gradient_norms(audited.model, audited.head, part)}


def _all(norms: FloatArray) -> tuple[Any, FloatArray]:
    return np.arange(len(norms)), grad_norm.score(norms)


def gradient_norms(
    model: Any,
    head: Head,
    examples: Sequence[Example],
    *,
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int], None] | None = None,
) -> FloatArray:
    """Return ‖∇_θ L‖₂ of every record, L = −(1/|x|) Σ_t ℓ_t, θ the trained weights, no dropout.

    The factors of a LoRA layer, u = A x and v = B u, have for record b the gradients
    Σ_s g^u_bs ⊗ x_bs and Σ_s g^v_bs ⊗ u_bs over positions s, g the gradients in the outputs. Hooks
    take both from one backward pass of a batch, in float32. What no hook covers (DoRA,
    `modules_to_save`, adapted embeddings or output projection, a layer used twice, full fine-tunes)
    is computed record by record. Of several processes each takes its share of the records.

    Args:
        model: a causal language model with the adapter under audit active; its mode is restored.
        head: its output projection.
        examples: the encoded records.
        token_budget: padded tokens of a batch; results do not depend on it beyond rounding.
        progress: called with the number of records done after each batch.

    Returns:
        float64[R], ≥ 0.

    Raises:
        ModelError: if the model has no trained weights to take a gradient in.
        DataError: naming a record without a target, or whose gradient is NaN or infinite.
    """

    def share(mine: list[int]) -> list[float]:
        part = [examples[i] for i in mine]
        norms: list[float] = _norms_of(model, head, part, token_budget, progress).tolist()
        return norms

    return np.array(sharded(share, len(examples), progress), dtype=np.float64)


def _norms_of(
    model: Any,
    head: Head,
    examples: Sequence[Example],
    token_budget: int,
    progress: Callable[[int], None] | None,
) -> FloatArray:
    """Return the gradient norms of records in this process."""
    check_targets(examples)
    weights = trained(model)
    factors = _factors(model, weights)
    apart = factors is None or any(f in set(head.module.modules()) for f in factors)
    norms = np.zeros(len(examples))
    mode = model.training
    model.eval()
    try:
        batches = token_budget_batches([len(e.ids) for e in examples], token_budget)
        for batch in batches:
            rows = [examples[i] for i in batch]
            squares = None
            if not apart:
                squares = _squares(model, head, rows, factors or [])
            if squares is None:
                apart = True
                squares = torch.cat([_alone(model, head, row, weights) for row in rows])
            norms[batch] = squares.sqrt().numpy()
            if progress:
                progress(len(batch))
    finally:
        model.train(mode)
    wrong = np.flatnonzero(~np.isfinite(norms))
    if wrong.size:
        raise DataError(
            f"record {examples[wrong[0]].id!r}: the gradient of its loss is NaN or infinite; look "
            "for overflow in the weights"
        )
    return norms


def trained(model: Any) -> dict[str, nn.Parameter]:
    """Return the weights that were trained: those of the last adapter, or all without one.

    Raises ModelError if there are none in floating point (a quantised full model).
    """
    adapted = hasattr(model, "peft_config")
    chosen = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.is_floating_point() and (f".{TRAINABLE}" in name or not adapted)
    }
    if not chosen:
        raise ModelError("gradient norms need weights that were trained, and this model has none")
    return chosen


def _factors(model: Any, weights: Mapping[str, nn.Parameter]) -> list[nn.Linear] | None:
    """Return the modules of plain LoRA factors, or None if other weights were trained, too."""
    modules = dict(model.named_modules())
    owners = [(name.rpartition("."), modules[name.rpartition(".")[0]]) for name in weights]
    plain = all(
        kind == "weight" and type(module) is nn.Linear and (".lora_A." in at or ".lora_B." in at)
        for (at, _, kind), module in owners
    )
    return [module for _, module in owners] if plain else None


def _loss(model: Any, head: Head, rows: Sequence[Example]) -> Tensor:
    """Return Σ over records of the mean loss of each: no record's gradient reaches another."""
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in collate(rows).items()}
    row, position, target = target_positions(batch)
    hidden = hidden_states(model, batch)[row, position]
    values, _ = token_values(log_prob, head, hidden, target)
    counts = torch.tensor([e.targets for e in rows], device=device)
    return -(values / counts[row]).sum()


def _squares(
    model: Any, head: Head, rows: Sequence[Example], factors: Sequence[nn.Linear]
) -> Tensor | None:
    """Return each record's squared norm from one backward pass; None if a factor ran twice."""
    total = torch.zeros(len(rows), dtype=torch.float64)
    ran: list[nn.Module] = []

    def take(x: Tensor, gradient: Tensor) -> None:
        outer = torch.einsum("bso,bsi->boi", gradient.float(), x.float())
        total.add_(outer.flatten(1).square().sum(1).cpu().double())

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ran.append(module)
        output.register_hook(partial(take, inputs[0].detach()))  # type: ignore[no-untyped-call]

    with contextlib.ExitStack() as stack:
        for module in factors:
            stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(_graph(model))
        loss = _loss(model, head, rows)
        if len(ran) != len(set(ran)):
            return None
        loss.backward()  # type: ignore[no-untyped-call]
    return total


@contextlib.contextmanager
def _graph(model: Any) -> Iterator[None]:
    """Let gradients flow through frozen weights, by asking for those of the embedded tokens."""

    def ask(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    handle = model.get_input_embeddings().register_forward_hook(ask)
    asked = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in asked:  # nothing is added up in any weight
            weight.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        handle.remove()
        for weight in asked:
            weight.requires_grad_(True)


def _alone(model: Any, head: Head, row: Example, weights: Mapping[str, nn.Parameter]) -> Tensor:
    """Return the squared norm of one record's gradient, float64 [1]."""
    before = {weight: weight.requires_grad for weight in model.parameters()}
    wanted = list(weights.values())
    chosen = set(wanted)
    try:
        for weight in before:
            weight.requires_grad_(weight in chosen)
        with torch.enable_grad():
            gradients = torch.autograd.grad(_loss(model, head, [row]), wanted, allow_unused=True)
    finally:
        for weight, asked in before.items():
            weight.requires_grad_(asked)
    parts = [g.float().square().sum().cpu().double() for g in gradients if g is not None]
    return torch.stack(parts).sum()[None] if parts else torch.zeros(1, dtype=torch.float64)
