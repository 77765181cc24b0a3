"""From models to score matrices: one forward pass over each record and state."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from unlearn.data.tokenization import Example
from unlearn.model.scoring import TOKEN_BUDGET, Head, score_examples
from unlearn_eval.arrays import IntArray
from unlearn_eval.scores.processes import gathered
from unlearn_eval.scores.token_scores import SAMPLERS, TokenScores

__all__ = ["score_model"]


def score_model(
    model: Any,
    head: Head,
    examples: Sequence[Example],
    *,
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int], None] | None = None,
    observe: Callable[[Sequence[int], Tensor], None] | None = None,
) -> TokenScores:
    """Score examples under one model, with one forward pass each.

    Of several processes each scores its share, and all return the whole matrix.

    Args:
        model: a causal language model.
        head: its output projection.
        examples: the encoded records.
        token_budget: padded tokens of a batch.
        progress: called with the number of records done after each batch.
        observe: sees the hidden states of each batch, see
            `unlearn.model.scoring.score_examples`; those of this process's share only.

    Returns:
        The score matrix.

    Raises:
        DataError: naming a record whose scores are NaN.
    """

    def share(mine: list[int]) -> TokenScores:
        def seen(batch: Sequence[int], hidden: Tensor) -> None:
            if observe:
                observe([mine[i] for i in batch], hidden)

        part = [examples[i] for i in mine]
        return _scored(model, head, part, token_budget, progress, seen)

    parts = gathered(share, len(examples), progress)
    if len(parts) == 1:
        return parts[0]
    order = np.concatenate([np.arange(i, len(examples), len(parts)) for i in range(len(parts))])
    return TokenScores.joined(parts).take(np.argsort(order))


def _scored(
    model: Any,
    head: Head,
    examples: Sequence[Example],
    token_budget: int,
    progress: Callable[[int], None] | None,
    observe: Callable[[Sequence[int], Tensor], None],
) -> TokenScores:
    """Score examples in this process."""
    statistics, offsets = score_examples(
        model,
        head,
        examples,
        samplers=SAMPLERS,
        token_budget=token_budget,
        progress=progress,
        observe=observe,
    )
    return TokenScores(
        ids=tuple(e.id for e in examples),
        offsets=offsets,
        log_prob=statistics.log_prob.double().numpy(),
        hit=statistics.hit.numpy(),
        rank=statistics.rank.numpy(),
        mean=statistics.mean.double().numpy(),
        std=statistics.std.double().numpy(),
        entropy=statistics.entropy.double().numpy(),
        text_bytes=np.array([len(zlib.compress(e.target_text.encode())) for e in examples]),
        secret=_secret_tokens(examples),
        top=statistics.top.double().numpy(),
        sampled={key: values.double().numpy() for key, values in statistics.sampled.items()},
    )


def _secret_tokens(examples: Sequence[Example]) -> IntArray:
    """Number the sensitive values that lie wholly within a record's target tokens."""
    columns = []
    for example in examples:
        numbers = np.zeros(len(example.ids), dtype=np.int64)
        inside = [s for s in example.secrets if example.target[s.start : s.end].all()]
        for number, span in enumerate(inside, start=1):
            numbers[span.start : span.end] = number
        columns.append(numbers[example.target])
    return np.concatenate([np.zeros(0, dtype=np.int64), *columns])
