"""One forward pass → statistics of every target token, for training and audit alike.

The final hidden states are taken just before the output projection, only the positions that
predict a target token are projected, and these in chunks, so that peak memory does not grow with
batch × sequence × vocabulary. All reductions over the vocabulary are in float32.

Notation: z the logits of one position (float32), y its target token, log p_v = z_v − logsumexp(z).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unlearn._head import Head, hidden_states
from unlearn.batches import Example, collate, token_budget_batches

__all__ = [
    "Head",
    "Projection",
    "Sampler",
    "TokenStatistic",
    "TokenStatistics",
    "hidden_states",
    "log_prob",
    "score_examples",
    "target_positions",
    "token_statistics",
    "token_values",
]

# Padded tokens of one scoring batch: small enough for a laptop, large enough to fill its cores.
TOKEN_BUDGET = 4096

# Logits of one chunk, in elements: 4 M elements are 16 MB in float32, which stays near the caches.
_CHUNK_ELEMENTS = 1 << 22


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
    """Return log p(target) = z_y − logsumexp(z) of each row.

    Args:
        logits: float32 [n, V].
        target: int64 [n].
        reference: not used.

    Returns:
        float32 [n].
    """
    return logits.gather(-1, target[:, None])[:, 0] - logits.logsumexp(-1)


def target_positions(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Find the target tokens of a batch and the positions that predict them.

    Token t is predicted at position t − 1. Tokens come out in order of row, then position.

    Args:
        batch: `input_ids` int64 [B, S] and `target` bool [B, S], False at position 0 of a row.

    Returns:
        (row int64 [N], predicting position int64 [N], target token int64 [N]).
    """
    row, position = batch["target"].nonzero(as_tuple=True)
    return row, position - 1, batch["input_ids"][row, position]


def chunks(total: int, vocabulary: int) -> Iterator[slice]:
    """Yield slices over `total` tokens whose logits hold about `_CHUNK_ELEMENTS` numbers."""
    size = max(16, _CHUNK_ELEMENTS // max(1, vocabulary))
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


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
    one product. With a trainable head each chunk is recomputed in the backward pass.

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
        return _values_trainable_head(statistic, head, hidden, target, reference_hidden, other)
    if torch.is_grad_enabled() and hidden.requires_grad:
        values, log_probs = _FrozenHead.apply(  # type: ignore[no-untyped-call]
            hidden, statistic, head, target, reference_hidden, other
        )
        return values, log_probs
    with torch.no_grad():
        parts = [
            _chunk_values(statistic, head, hidden[c], target[c], _part(reference_hidden, c), other)
            for c in chunks(len(target), _vocabulary(head))
        ]
    return _joined([v for v, _ in parts], hidden), _joined([p for _, p in parts], hidden)


def _part(tensor: Tensor | None, c: slice) -> Tensor | None:
    return None if tensor is None else tensor[c]


def _joined(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat(list(parts)) if parts else like.new_zeros(0, dtype=torch.float32)


def _vocabulary(head: Head) -> int:
    weight = getattr(head.module, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) and weight.dim() == 2 else 1 << 17


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
    for c in chunks(len(target), _vocabulary(head)):
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
        plain = statistic is log_prob and isinstance(head.module, nn.Linear)
        for c in chunks(len(target), _vocabulary(head)):
            if plain:
                v, slope = _log_prob_and_slope(head, hidden[c], target[c])
                p = v
            else:
                with torch.enable_grad():
                    leaf = hidden[c].detach().requires_grad_()
                    v, p = _chunk_values(
                        statistic, head, leaf, target[c], _part(reference_hidden, c), reference_head
                    )
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
    """Return log p_y and its derivative in hidden: (onehot(y) − p)·dz/du·W, with u = W h + b."""
    assert isinstance(head.module, nn.Linear)
    logits = head(hidden)
    index = target[:, None]
    value = log_prob(logits, target)
    # dz/du: s for a scaled head, s·(1 − (z/cap)²) behind the soft cap
    inner = (1 - (logits / head.softcap) ** 2) * head.scale if head.softcap else head.scale
    slope = (logits - (logits.gather(-1, index) - value[:, None])).exp_().neg_()
    slope.scatter_add_(-1, index, torch.ones_like(value)[:, None])
    weight = head.module.weight
    return value, (slope * inner if head.softcap or head.scale != 1.0 else slope).to(
        weight.dtype
    ) @ weight


Sampler = tuple[float, int]
"""How a model is sampled: (temperature, top_k), top_k 0 meaning all tokens."""


class TokenStatistics(NamedTuple):
    """What one pass tells about each target token; every field is [N], on the CPU.

    Attributes:
        log_prob: log p_y, float32.
        hit: whether y is the arg-max.
        rank: how many tokens have a strictly larger logit, int64; 0 is the best.
        mean: μ = Σ_v p_v log p_v, float32 (the negative entropy).
        std: σ = sqrt(Σ_v p_v (log p_v − μ)²), float32.
        sampled: for each (temperature T, top_k k) asked for, the log-probability of y when one
            samples so: log p̃_y = z_y/T − logsumexp of z/T over the k largest logits, and −∞
            where k others are larger than z_y, float32.
    """

    log_prob: Tensor
    hit: Tensor
    rank: Tensor
    mean: Tensor
    std: Tensor
    sampled: Mapping[Sampler, Tensor]

    @property
    def entropy(self) -> Tensor:
        """Entropy of the model's distribution at each token, −μ, in nats."""
        return -self.mean


@torch.no_grad()
def token_statistics(
    head: Head,
    hidden: Tensor,
    target: Tensor,
    samplers: Sequence[Sampler] = (),
) -> TokenStatistics:
    """Compute every statistic of each token in one chunked projection.

    Limits: a vocabulary entry with logit −∞ has p = 0 and contributes 0 to μ and σ; a target
    with logit −∞ has log p = −∞.

    Args:
        head: the output projection.
        hidden: hidden states at the predicting positions, [N, H].
        target: target tokens, int64 [N].
        samplers: (temperature, top_k) pairs to give sampling log-probabilities for.

    Returns:
        The statistics.
    """
    columns: list[list[Tensor]] = [[] for _ in range(5 + len(samplers))]
    for c in chunks(len(target), _vocabulary(head)):
        logits = head(hidden[c])
        z_y = logits.gather(-1, target[c][:, None])
        found = [
            logits.argmax(-1) == target[c],
            (logits > z_y).sum(-1),
        ]
        found += _sampled(logits, z_y[:, 0], found[1], samplers)
        log_p = logits.sub_(logits.logsumexp(-1, keepdim=True))
        value = log_p.gather(-1, target[c][:, None])[:, 0]
        p = log_p.exp()
        log_p.clamp_(min=-1e4)  # touches only entries whose p is exactly 0, so that 0 · −∞ = 0
        mean = torch.linalg.vecdot(p, log_p)
        variance = torch.linalg.vecdot(p, (log_p - mean[:, None]).square_())
        for column, part in zip(
            columns, [value, *found[:2], mean, variance.sqrt(), *found[2:]], strict=True
        ):
            column.append(part.cpu())
    joined = [torch.cat(c) if c else torch.zeros(0) for c in columns]
    return TokenStatistics(
        joined[0],
        joined[1].bool(),
        joined[2].long(),
        joined[3],
        joined[4],
        dict(zip(samplers, joined[5:], strict=True)),
    )


def _sampled(
    logits: Tensor, z_y: Tensor, rank: Tensor, samplers: Sequence[Sampler]
) -> list[Tensor]:
    """Return log p̃_y for each sampler; one sort of the largest logits serves them all."""
    size = logits.shape[-1]
    largest = min(size, max((k for _, k in samplers), default=0))
    top = logits.topk(largest, -1).values if largest else logits[:, :0]
    found = []
    for temperature, k in samplers:
        kept = top[:, : min(k, size)] if k else logits
        value = z_y / temperature - (kept / temperature).logsumexp(-1)
        found.append(value.masked_fill(rank >= k, -torch.inf) if k else value)
    return found


@torch.no_grad()
def score_examples(
    model: Any,
    head: Head,
    examples: Sequence[Example],
    *,
    samplers: Sequence[Sampler] = (),
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int], None] | None = None,
    observe: Callable[[Sequence[int], Tensor], None] | None = None,
) -> tuple[TokenStatistics, npt.NDArray[np.int64]]:
    """Score examples with exactly one forward pass each, in eval mode.

    Args:
        model: a causal language model; its mode is restored afterwards.
        head: its output projection.
        examples: what to score.
        samplers: (temperature, top_k) pairs to give sampling log-probabilities for.
        token_budget: padded tokens of a batch; results do not depend on it beyond rounding.
        progress: called with the number of records done after each batch.
        observe: called after each batch with the positions of its examples and the hidden states
            [n, H] that predict their target tokens, record after record.

    Returns:
        (statistics of all target tokens in the order of `examples`, offsets int64 [R + 1]: the
        tokens of record i are offsets[i] … offsets[i + 1]).
    """
    offsets = np.concatenate([[0], np.cumsum([e.targets for e in examples])]).astype(np.int64)
    columns: list[Tensor] | None = None
    device = next(model.parameters()).device
    mode = model.training
    model.eval()
    try:
        for batch in token_budget_batches([len(e.ids) for e in examples], token_budget):
            inputs = {k: v.to(device) for k, v in collate([examples[i] for i in batch]).items()}
            row, position, target = target_positions(inputs)
            hidden = hidden_states(model, inputs)[row, position]
            found = token_statistics(head, hidden, target, samplers)
            if observe:
                observe(batch, hidden)
            parts = [*found[:5], *found.sampled.values()]
            if columns is None:
                columns = [torch.empty(int(offsets[-1]), dtype=p.dtype) for p in parts]
            where = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in batch])
            for column, part in zip(columns, parts, strict=True):
                column[torch.from_numpy(where)] = part
            if progress:
                progress(len(batch))
    finally:
        model.train(mode)
    if columns is None:
        none = token_statistics(head, torch.zeros(0, 1), torch.zeros(0, dtype=torch.long), samplers)
        return none, offsets
    sampled = dict(zip(samplers, columns[5:], strict=True))
    log_p, hit, rank, mean, std = columns[:5]
    return TokenStatistics(log_p, hit, rank, mean, std, sampled), offsets
