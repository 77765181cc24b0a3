"""Sample answers to records, many at a time, and count how many are the target exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from unlearn.data.tokenization import Example
from unlearn.errors import OptionError
from unlearn.model.generation import answer_start, generate
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn_eval.arrays import IntArray
from unlearn_eval.scores.token_scores import SAMPLER, Sampler

__all__ = ["sampled_hits"]

_NO_END = np.zeros(0, dtype=np.int64)


def sampled_hits(
    model: Any,
    examples: Sequence[Example],
    n: int,
    *,
    sampler: Sampler = SAMPLER,
    token_budget: int = TOKEN_BUDGET,
    seed: int = 0,
) -> IntArray:
    """Sample n answers to each record, and count those that are its target exactly.

    An answer begins where the last target does, and is as many tokens as it has: a token that ends
    the text counts if it is the target's, and what the model would say after the target does not.
    Compare the counts with `extraction.discoverable.log_prob_of_target` of the same sampler by
    `extraction.sampled.agreement`.

    Args:
        model: a causal language model; its mode is restored afterwards.
        examples: records with a single run of targets, behind something to begin from.
        n: answers to each.
        sampler: (temperature, top_k), top_k 0 meaning all tokens.
        token_budget: padded tokens of a batch.
        seed: of the sampling; PyTorch's global state is restored afterwards.

    Returns:
        int64[R], hits.

    Raises:
        OptionError: if n is below 1 or the temperature not positive.
    """
    if n < 1 or not sampler[0] > 0:
        raise OptionError(f"{n} answers at temperature {sampler[0]:g}: both must be above 0")
    hits = np.zeros(len(examples), dtype=np.int64)
    mode = model.training
    model.eval()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for i, example in enumerate(examples):
                cut = answer_start(example)
                truth = example.ids[cut:]
                begin = Example("", example.ids[:cut], example.target[:cut])
                rows = max(1, token_budget // len(example.ids))
                for start in range(0, n, rows):
                    size = min(rows, n - start)
                    answers = generate(
                        model, [begin] * size, len(truth), _NO_END, sample=True, sampler=sampler
                    )
                    hits[i] += sum(np.array_equal(answer, truth) for answer in answers)
    finally:
        model.train(mode)
    return hits
