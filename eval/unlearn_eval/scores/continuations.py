"""What a model says by itself when it is given the beginning of a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlearn.data.tokenization import Example
from unlearn.model.generation import answer_start, end_tokens, generate
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn_eval.arrays import IntArray
from unlearn_eval.scores.processes import sharded

__all__ = ["Continuation", "continue_examples", "continue_tokens", "prompt_tokens"]


@dataclass(frozen=True)
class Continuation:
    """A model's own ending of a record, as long as the true one at most.

    Attributes:
        tokens: int64, what the model wrote, without the token that ends a text.
        text: the same decoded.
        truth: the record's own ending, decoded in the same way.
        cut: whether the model was stopped before it ended the text itself.
    """

    tokens: IntArray
    text: str
    truth: str
    cut: bool

    @property
    def shown(self) -> str:
        """The text for people, who must see where it was cut."""
        return f"{self.text}…" if self.cut else self.text


def continue_examples(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int], None] | None = None,
) -> list[Continuation]:
    """Let a model finish examples greedily, in batches with a key–value cache.

    A record is cut before its last target (the completion, or the last turn of the assistant); free
    text, which has nothing before its target, is cut in the middle. The model writes until it ends
    the text, and at most as many tokens as the record has left.

    Args:
        model: a causal language model; its mode is restored afterwards.
        tokenizer: its tokenizer.
        examples: the encoded records.
        token_budget: padded tokens of a batch; results do not depend on it but for ties.
        progress: called with the number of records done after each batch.

    Returns:
        One continuation a record, in order.
    """
    cuts = [answer_start(example) for example in examples]
    beginnings = [e.ids[:cut] for e, cut in zip(examples, cuts, strict=True)]
    truths = [e.ids[cut:] for e, cut in zip(examples, cuts, strict=True)]
    written = continue_tokens(
        model,
        tokenizer,
        beginnings,
        # one token more than is kept tells a text that ends there from one that is cut
        [len(truth) + 1 for truth in truths],
        token_budget=token_budget,
        progress=progress,
    )
    return [
        Continuation(
            tokens[: len(truth)],
            tokenizer.decode(tokens[: len(truth)].tolist(), skip_special_tokens=True),
            tokenizer.decode(truth.tolist(), skip_special_tokens=True),
            cut=len(tokens) > len(truth),
        )
        for tokens, truth in zip(written, truths, strict=True)
    ]


def continue_tokens(
    model: Any,
    tokenizer: Any,
    beginnings: Sequence[IntArray],
    lengths: Sequence[int],
    *,
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int], None] | None = None,
) -> list[IntArray]:
    """Let a model write on greedily from tokens, in batches with a key–value cache.

    Of several processes each takes its share of the beginnings, and all return everything.

    Args:
        model: a causal language model; its mode is restored afterwards.
        tokenizer: its tokenizer.
        beginnings: token ids to write on from, at least one each.
        lengths: how many tokens to write after each, at most.
        token_budget: padded tokens of a batch; results do not depend on it but for ties.
        progress: called with the number of beginnings done after each batch.

    Returns:
        What was written after each beginning, int64, without the token that ends a text.
    """
    ends = end_tokens(model, tokenizer)

    def share(mine: list[int]) -> list[IntArray]:
        some = [beginnings[i] for i in mine]
        return _continued(model, ends, some, [lengths[i] for i in mine], token_budget, progress)

    return sharded(share, len(beginnings), progress)


def _continued(
    model: Any,
    ends: IntArray,
    beginnings: Sequence[IntArray],
    lengths: Sequence[int],
    token_budget: int,
    progress: Callable[[int], None] | None,
) -> list[IntArray]:
    """Let a model write on from tokens in this process."""
    texts: dict[int, IntArray] = {}
    mode = model.training
    model.eval()
    try:
        for batch in _batches([len(ids) for ids in beginnings], lengths, token_budget):
            rows = [
                Example("", beginnings[i], np.zeros(len(beginnings[i]), dtype=bool)) for i in batch
            ]
            written = generate(model, rows, max(lengths[i] for i in batch), ends)
            for i, row in zip(batch, written, strict=True):
                row = row[: lengths[i]]
                stop = np.flatnonzero(np.isin(row, ends))
                texts[i] = row[: int(stop[0])] if stop.size else row
            if progress:
                progress(len(batch))
    finally:
        model.train(mode)
    return [texts[i] for i in range(len(beginnings))]


def prompt_tokens(tokenizer: Any, text: str) -> IntArray:
    """Tokenise a text to be written on from: with what begins a text, without what ends one.

    Args:
        tokenizer: the model's tokenizer.
        text: the text.

    Returns:
        Token ids, int64.
    """
    ids = np.asarray(tokenizer(text, verbose=False).input_ids, dtype=np.int64)
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def _batches(
    beginnings: Sequence[int], lengths: Sequence[int], token_budget: int
) -> list[list[int]]:
    """Group rows whose beginnings and endings have similar lengths."""
    order = sorted(range(len(beginnings)), key=lambda i: (beginnings[i], lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        group = [*batches[-1], i] if batches else [i]
        widest = max(beginnings[j] for j in group) + max(lengths[j] for j in group)
        if batches and widest * len(group) <= token_budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
