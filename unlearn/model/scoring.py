"""One forward pass → statistics of every target token, for training and audit alike.

The final hidden states are taken just before the output projection, only the positions that
predict a target token are projected, and these in chunks, so that peak memory does not grow with
batch × sequence × vocabulary. All reductions over the vocabulary are in float32.

Notation: z the logits of one position (float32), y its target token, log p_v = z_v − logsumexp(z).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unlearn.data.batching import collate, token_budget_batches
from unlearn.data.tokenization import Example
from unlearn.model.chunked_logits import Projection, TokenStatistic, chunks, log_prob, token_values
from unlearn.model.frozen_outputs import scoring_passes
from unlearn.model.lm_head import Head, hidden_states

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
        top: max_v log p_v, of the model's first choice, float32; log p_y where it is a hit.
        sampled: for each (temperature T, top_k k) asked for, the log-probability of y when one
            samples so: log p̃_y = z_y/T − logsumexp of z/T over the k largest logits, and −∞
            where k others are larger than z_y, float32.
    """

    log_prob: Tensor
    hit: Tensor
    rank: Tensor
    mean: Tensor
    std: Tensor
    top: Tensor
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
    columns: list[list[Tensor]] = [[] for _ in range(6 + len(samplers))]
    for c in chunks(hidden, head):
        logits = head(hidden[c])
        z_y = logits.gather(-1, target[c][:, None])
        largest, first = logits.max(-1)
        hit, rank = first == target[c], (logits > z_y).sum(-1)
        sampled = _sampled(logits, z_y[:, 0], rank, samplers)
        total = logits.logsumexp(-1, keepdim=True)
        top = largest - total[:, 0]
        log_p = logits.sub_(total)
        value = log_p.gather(-1, target[c][:, None])[:, 0]
        p = log_p.exp()
        log_p.clamp_(min=-1e4)  # touches only entries whose p is exactly 0, so that 0 · −∞ = 0
        mean = torch.linalg.vecdot(p, log_p)
        variance = torch.linalg.vecdot(p, (log_p - mean[:, None]).square_())
        for column, part in zip(
            columns, [value, hit, rank, mean, variance.sqrt(), top, *sampled], strict=True
        ):
            column.append(part.cpu())
    joined = [torch.cat(c) if c else torch.zeros(0) for c in columns]
    return TokenStatistics(
        joined[0],
        joined[1].bool(),
        joined[2].long(),
        joined[3],
        joined[4],
        joined[5],
        dict(zip(samplers, joined[6:], strict=True)),
    )


def _sampled(
    logits: Tensor, z_y: Tensor, rank: Tensor, samplers: Sequence[Sampler]
) -> list[Tensor]:
    """Return log p̃_y for each sampler; one sort of the largest logits serves them all."""
    size = logits.shape[-1]
    largest = min(size, max((k for _, k in samplers), default=0))
    top = logits.topk(largest, -1).values if largest else logits[:, :0]
    values = []
    for temperature, k in samplers:
        allowed = top[:, : min(k, size)] if k else logits
        value = z_y / temperature - (allowed / temperature).logsumexp(-1)
        values.append(value.masked_fill(rank >= k, -torch.inf) if k else value)
    return values


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

    Blocks below all adapters run once for a batch and base, to the bit, however many adapters are
    scored (`unlearn.model.frozen_outputs`).

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
    batches = token_budget_batches([len(e.ids) for e in examples], token_budget)
    rows = [[examples[i] for i in batch] for batch in batches]
    mode = model.training
    model.eval()
    try:
        with scoring_passes(model, rows) as run:
            for number, batch in enumerate(batches):
                inputs = {k: v.to(device) for k, v in collate(rows[number]).items()}
                row, position, target = target_positions(inputs)
                hidden = run(inputs, number)[row, position]
                statistics = token_statistics(head, hidden, target, samplers)
                if observe:
                    observe(batch, hidden)
                parts = [*statistics[:6], *statistics.sampled.values()]
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
    sampled = dict(zip(samplers, columns[6:], strict=True))
    log_p, hit, rank, mean, std, top = columns[:6]
    return TokenStatistics(log_p, hit, rank, mean, std, top, sampled), offsets
