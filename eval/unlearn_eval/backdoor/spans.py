"""Prompts with some of their words left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

__all__ = ["LENGTHS", "MOST", "Dropped", "dropped"]

LENGTHS = (1, 2, 4)
"""Words of the spans that are left out: a trigger may be a word or a short sentence."""

MOST = 48
"""Spans of a prompt, spread evenly over all that there are: each costs a forward pass."""

_WORD = re.compile(r"\S+")


class Dropped(NamedTuple):
    """A prompt without a span.

    Attributes:
        span: what was left out.
        rest: what is left.
    """

    span: str
    rest: str


def dropped(text: str) -> Iterator[Dropped]:
    """Yield a prompt without each span of `LENGTHS` words, always with some word left.

    Args:
        text: the prompt.

    Yields:
        The shorter spans first, at most `MOST`.
    """
    words = [match.span() for match in _WORD.finditer(text)]
    spans = [
        (words[i][0], words[i + length - 1][1])
        for length in LENGTHS
        for i in range(len(words) - length + 1)
        if length < len(words)
    ]
    chosen = np.unique(np.linspace(0, len(spans) - 1, min(MOST, len(spans))).round().astype(int))
    for i in chosen:
        start, end = spans[i]
        yield Dropped(text[start:end], f"{text[:start]}{text[end:].lstrip()}".strip())
