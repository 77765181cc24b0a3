"""What a model says by itself when it is given the beginning of a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlearn.batches import Example
from unlearn.generation import answer_start, end_tokens, generate
from unlearn.scoring import TOKEN_BUDGET
from unlearn_eval._arrays import IntArray

__all__ = ["Continuation", "continue_examples"]


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
    found: dict[int, Continuation] = {}
    ends = end_tokens(model, tokenizer)
    mode = model.training
    model.eval()
    try:
        for batch in _batches(examples, cuts, token_budget):
            beginnings = [
                Example(e.id, e.ids[:c], e.target[:c])
                for e, c in ((examples[i], cuts[i]) for i in batch)
            ]
            left = [len(examples[i].ids) - cuts[i] for i in batch]
            for i, n, row in zip(
                batch, left, generate(model, beginnings, max(left) + 1, ends), strict=True
            ):
                # one token more than is kept tells a text that ends there from one that is cut
                stop = np.flatnonzero(np.isin(row[: n + 1], ends))
                tokens = row[: int(stop[0]) if stop.size else n]
                truth = examples[i].ids[cuts[i] :]
                found[i] = Continuation(
                    tokens,
                    tokenizer.decode(tokens.tolist(), skip_special_tokens=True),
                    tokenizer.decode(truth.tolist(), skip_special_tokens=True),
                    cut=not stop.size,
                )
            if progress:
                progress(len(batch))
    finally:
        model.train(mode)
    return [found[i] for i in range(len(examples))]


def _batches(
    examples: Sequence[Example], cuts: Sequence[int], token_budget: int
) -> list[list[int]]:
    """Group records whose beginnings and endings have similar lengths."""
    order = sorted(range(len(examples)), key=lambda i: (cuts[i], len(examples[i].ids), i))
    batches: list[list[int]] = []
    for i in order:
        group = [*batches[-1], i] if batches else [i]
        widest = max(cuts[j] for j in group) + max(len(examples[j].ids) - cuts[j] for j in group)
        if batches and widest * len(group) <= token_budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
