"""Differentiable statistics of single tokens, without the logits of more than a chunk of them.

The vocabulary is projected and reduced in chunks, in float32; what is kept for the backward pass
does not grow with the number of tokens × the vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unlearn.model.lm_head import Head

__all__ = [
    "Projection",
    "TokenStatistic",
    "chunks",
    "cut_as_on",
    "log_prob",
    "token_values",
]

# Logits of one chunk, in elements: 4 M elements are 16 MB in float32, which stays near the caches.
_CHUNK_ELEMENTS = 1 << 22

# An accelerator reads all of W for each chunk: some 256 tokens at a vocabulary of 128 k are as many
# operations a byte as its arithmetic needs to be the limit (about 300 on an H100 in bfloat16).
_CHUNK_ELEMENTS_OF_ACCELERATOR = 1 << 25

_PLANNED: ContextVar[str | None] = ContextVar("planned", default=None)


Projection = Callable[[Tensor], Tensor]
"""Makes float32 logits [n, V] of hidden states [n, H]; a `Head`, most often."""


class TokenStatistic(Protocol):
    """A differentiable statistic of single tokens, computed from a chunk of logits."""

    def __call__(self, logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
        """Return one value a token.

        Args:
            logits: float32 [n, V].
            target: int64 [n].
            reference: the reference model's logits, float32 [n, V], where the loss needs them.

        Returns:
            float32 [n]; row i may depend on row i of the inputs only.
        """
        ...


def log_prob(logits: Tensor, target: Tensor, reference: Tensor | None = None) -> Tensor:
    """Return log p(target) = z_y − logsumexp(z) of each row, float32 [n]."""
    return logits.gather(-1, target[..., None])[..., 0] - logits.logsumexp(-1)


@contextlib.contextmanager
def cut_as_on(place: str) -> Iterator[None]:
    """Cut tensors without content, on the meta device, as those on another device are cut.

    Args:
        place: type of that device.

    Yields:
        Nothing.
    """
    before = _PLANNED.set(place)
    try:
        yield
    finally:
        _PLANNED.reset(before)


def chunks(hidden: Tensor, head: Head) -> Iterator[slice]:
    """Yield slices over the tokens of `hidden`, each of as many as one chunk of logits holds."""
    weight = getattr(head.module, "weight", None)
    vocabulary = weight.shape[0] if isinstance(weight, Tensor) and weight.dim() == 2 else 1 << 17
    on_cpu = (_PLANNED.get() or hidden.device.type) == "cpu"
    elements = _CHUNK_ELEMENTS if on_cpu else _CHUNK_ELEMENTS_OF_ACCELERATOR
    size = max(16, elements // max(1, vocabulary))
    for start in range(0, len(hidden), size):
        yield slice(start, min(start + size, len(hidden)))


def token_values(
    statistic: TokenStatistic,
    head: Head,
    hidden: Tensor,
    target: Tensor,
    reference_hidden: Tensor | None = None,
    reference_head: Projection | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute a differentiable statistic of each token, chunk by chunk.

    With a frozen head the derivative of each value with respect to its hidden state is taken
    chunk by chunk in the forward pass and kept ([N, H] instead of [N, V]); the backward pass is
    one product. With a trainable head each chunk is recomputed in the backward pass, and the
    gradient of the projection grows in place, chunk by chunk.

    Args:
        statistic: what to compute from a chunk of logits.
        head: the output projection.
        hidden: hidden states at the predicting positions, [N, H].
        target: target tokens, int64 [N].
        reference_hidden: the reference's hidden states [N, H], for statistics that need them.
        reference_head: the reference's projection; by default `head`.

    Returns:
        (values float32 [N], log-probabilities float32 [N] without gradient).
    """
    other = reference_head or head
    if torch.is_grad_enabled() and head.trainable:
        if _is_whole_linear(head.module) and not _autocasts(hidden):
            values, log_probs = _TrainableHead.apply(  # type: ignore[no-untyped-call]
                hidden,
                head.module.weight,
                head.module.bias,
                statistic,
                head,
                target,
                reference_hidden,
                other,
            )
            return values, log_probs
        return _values_trainable_head(statistic, head, hidden, target, reference_hidden, other)
    if torch.is_grad_enabled() and hidden.requires_grad:
        values, log_probs = _FrozenHead.apply(  # type: ignore[no-untyped-call]
            hidden, statistic, head, target, reference_hidden, other
        )
        return values, log_probs
    return _values_without_gradient(statistic, head, hidden, target, reference_hidden, other)


def _is_whole_linear(module: nn.Module) -> bool:
    """Whether a projection is h ↦ W h + b itself, with all of W here: no wrapper, no shard."""
    return (
        isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and type(module.weight) is nn.Parameter
        and module.weight.shape == (module.out_features, module.in_features)
    )


def _autocasts(hidden: Tensor) -> bool:
    """Whether products are computed in another type than the tensors'; shapes have none."""
    return not hidden.is_meta and torch.is_autocast_enabled(hidden.device.type)


@torch.no_grad()
def _values_without_gradient(
    statistic: TokenStatistic,
    head: Head,
    hidden: Tensor,
    target: Tensor,
    reference_hidden: Tensor | None,
    reference_head: Projection,
) -> tuple[Tensor, Tensor]:
    values, log_probs = [], []
    for c in chunks(hidden, head):
        v, p = _chunk_values(
            statistic, head, hidden[c], target[c], _part(reference_hidden, c), reference_head
        )
        values.append(v)
        log_probs.append(p)
    return _joined(values, hidden), _joined(log_probs, hidden)


def _part(tensor: Tensor | None, c: slice) -> Tensor | None:
    return None if tensor is None else tensor[c]


def _joined(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat(list(parts)) if parts else like.new_zeros(0, dtype=torch.float32)


def _chunk_values(
    statistic: TokenStatistic,
    head: Head,
    hidden: Tensor,
    target: Tensor,
    reference_hidden: Tensor | None,
    reference_head: Projection,
) -> tuple[Tensor, Tensor]:
    reference = None
    if reference_hidden is not None:
        with torch.no_grad():
            reference = reference_head(reference_hidden)
    logits = head(hidden)
    values = statistic(logits, target, reference)
    if statistic is log_prob:
        return values, values.detach()
    with torch.no_grad():
        return values, log_prob(logits.detach(), target)


def _values_trainable_head(
    statistic: TokenStatistic,
    head: Head,
    hidden: Tensor,
    target: Tensor,
    reference_hidden: Tensor | None,
    reference_head: Projection,
) -> tuple[Tensor, Tensor]:
    values, log_probs = [], []
    for c in chunks(hidden, head):
        v, p = checkpoint(
            _chunk_values,
            statistic,
            head,
            hidden[c],
            target[c],
            _part(reference_hidden, c),
            reference_head,
            use_reentrant=False,
        )
        values.append(v)
        log_probs.append(p)
    return _joined(values, hidden), _joined(log_probs, hidden)


class _TrainableHead(torch.autograd.Function):
    """values = f(finish(W h + b)), logits made again in the backward pass, a chunk at a time.

    Autograd over chunks would make a gradient the size of W for each of them; here one grows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        statistic: TokenStatistic,
        head: Head,
        target: Tensor,
        reference_hidden: Tensor | None,
        reference_head: Projection,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, bias, target, reference_hidden)
        ctx.how = statistic, head, reference_head
        values, log_probs = _values_without_gradient(
            statistic, head, hidden, target, reference_hidden, reference_head
        )
        ctx.mark_non_differentiable(log_probs)
        return values, log_probs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, reference_hidden = ctx.saved_tensors
        statistic, head, reference_head = ctx.how
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for c in chunks(hidden, head):
            known = _part(reference_hidden, c)
            reference = None if known is None else reference_head(known)
            *_, of_logits = _value_and_slope(
                statistic, head, hidden[c], target[c], reference, gradients[0][c]
            )
            of_logits = of_logits.to(weight.dtype)
            torch.mm(of_logits, weight, out=of_hidden[c])
            if of_weight is not None:
                of_weight.addmm_(of_logits.T, hidden[c])
            if of_bias is not None:
                of_bias += of_logits.sum(0)
        return (of_hidden, of_weight, of_bias, *[None] * 5)


class _FrozenHead(torch.autograd.Function):
    """values = f(head(hidden)) with d values / d hidden kept instead of the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        statistic: TokenStatistic,
        head: Head,
        target: Tensor,
        reference_hidden: Tensor | None,
        reference_head: Projection,
    ) -> tuple[Tensor, Tensor]:
        values, log_probs, slopes = [], [], []
        for c in chunks(hidden, head):
            known = _part(reference_hidden, c)
            if isinstance(head.module, nn.Linear):
                reference = None if known is None else reference_head(known)
                v, p, slope = _value_and_slope(statistic, head, hidden[c], target[c], reference)
                slope = slope.to(head.module.weight.dtype) @ head.module.weight
            else:
                with torch.enable_grad():
                    leaf = hidden[c].detach().requires_grad_()
                    v, p = _chunk_values(statistic, head, leaf, target[c], known, reference_head)
                    (slope,) = torch.autograd.grad(v.sum(), leaf)
            values.append(v.detach())
            log_probs.append(p.detach())
            slopes.append(slope)
        ctx.save_for_backward(torch.cat(slopes) if slopes else torch.zeros_like(hidden))
        joined = _joined(log_probs, hidden)
        ctx.mark_non_differentiable(joined)
        return _joined(values, hidden), joined

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (gradients[0][:, None].to(slopes.dtype) * slopes, None, None, None, None, None)


def _log_prob_and_slope(head: Head, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p_y and its derivative in u = W h + b, (onehot(y) − p)·dz/du, float32 [n, V]."""
    logits = head(hidden)
    index = target[:, None]
    value = log_prob(logits, target)
    # dz/du: s for a scaled head, s·(1 − (z/cap)²) behind the soft cap
    inner = (1 - (logits / head.softcap) ** 2) * head.scale if head.softcap else head.scale
    slope = (logits - (logits.gather(-1, index) - value[:, None])).exp_().neg_()
    slope.scatter_add_(-1, index, torch.ones_like(value)[:, None])
    return value, slope * inner if head.softcap or head.scale != 1.0 else slope


def _value_and_slope(
    statistic: TokenStatistic,
    head: Head,
    hidden: Tensor,
    target: Tensor,
    reference: Tensor | None,
    upstream: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, log p_y and the gradient of Σ_i upstream_i · value_i in u = W h + b, [n, V].

    It is taken in u, as a backward pass through a projection whose weights are split over processes
    would let go of gathered weights that the step still needs.
    """
    if statistic is log_prob:
        value, slope = _log_prob_and_slope(head, hidden, target)
        return value, value, slope if upstream is None else slope.mul_(upstream[:, None])
    with torch.enable_grad():
        leaf = head.module(hidden).detach().float().requires_grad_()
        logits = head.finish(leaf)
        values = statistic(logits, target, reference)
    (slope,) = torch.autograd.grad(
        values, leaf, values.new_ones(len(values)) if upstream is None else upstream
    )
    return values.detach(), log_prob(logits.detach(), target), slope
