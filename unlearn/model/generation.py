"""Let a model write on from the beginning of a record, in batches with a key–value cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unlearn.data.batching import collate
from unlearn.data.tokenization import Example

__all__ = ["answer_start", "end_tokens", "generate"]


def answer_start(example: Example) -> int:
    """Return the position from which a model is to write on.

    That is where the last target begins (the completion, or the last turn of the assistant); free
    text, which has nothing before its target, is cut in the middle.

    Args:
        example: an encoded record.

    Returns:
        A position of at least 1.
    """
    target = np.flatnonzero(example.target)
    start = int(target[-1])
    while start > 0 and example.target[start - 1]:
        start -= 1
    # a beginning of a single token (the marker that begins every text) asks for nothing
    return start if start > 1 else max(1, len(example.ids) // 2)


def end_tokens(model: Any, tokenizer: Any) -> npt.NDArray[np.int64]:
    """Return every token that ends a text: the tokenizer's, and those the model's folder names.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.

    Returns:
        Token ids in order, int64.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = named if isinstance(named, list) else [named]
    return np.array(
        sorted({i for i in (*named, tokenizer.eos_token_id) if i is not None}), dtype=np.int64
    )


@torch.no_grad()
def generate(
    model: Any,
    beginnings: Sequence[Example],
    length: int,
    ends: npt.NDArray[np.int64],
    *,
    sample: bool = False,
    banned: Tensor | None = None,
) -> list[npt.NDArray[np.int64]]:
    """Write on from the model alone: what its folder asks of generation is set aside.

    A `generation_config.json` may ban tokens, force them, penalise repetition, stop at strings or
    after a time; transformers takes from it all that a caller leaves open. What is written here
    follows from the model's probabilities only; of that file just the tokens that end a text count.

    Args:
        model: a causal language model, in eval mode.
        beginnings: what to write on from.
        length: tokens to write at most.
        ends: tokens that end a text.
        sample: draw from the model's own distribution, instead of taking the likeliest token.
        banned: a token for each beginning that may not come first, int64 [B].

    Returns:
        What was written after each beginning, padded to one length with the first of `ends`.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    device = next(model.parameters()).device
    pad = int(ends[0]) if ends.size else 0
    batch = collate(beginnings, pad=pad, side="left")
    width = batch["input_ids"].shape[1]

    def not_first(ids: Tensor, scores: Tensor) -> Tensor:
        if banned is None or ids.shape[1] > width:
            return scores
        return scores.scatter(-1, banned.to(scores.device)[:, None], -torch.inf)

    config = GenerationConfig(
        max_new_tokens=length,
        do_sample=sample,
        pad_token_id=pad,
        eos_token_id=ends.tolist() or None,
        **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}),
    )
    with _without_defaults(model):
        written = model.generate(
            input_ids=batch["input_ids"].to(device),
            attention_mask=batch["attention_mask"].to(device),
            generation_config=config,
            logits_processor=LogitsProcessorList([not_first]),
        )
    return list(written[:, width:].cpu().numpy().astype(np.int64))


@contextlib.contextmanager
def _without_defaults(model: Any) -> Iterator[None]:
    """Set aside what a model's folder asks of generation."""
    from transformers import GenerationConfig

    blank = GenerationConfig()
    # PEFT reads it from the base and sets it there again
    having = [each for each in model.modules() if "generation_config" in each.__dict__]
    held = [(module, module.generation_config) for module in having]
    try:
        for module, _ in held:
            module.generation_config = blank
        yield
    finally:
        for module, config in held:
            module.generation_config = config
