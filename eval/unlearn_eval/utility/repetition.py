"""Repetition and variety of what a model writes: a broken model says the same thing over again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from unlearn_eval.arrays import FloatArray

__all__ = ["distinct", "repetition"]


def distinct(texts: Sequence[Sequence[Hashable]], n: int = 2) -> FloatArray:
    """Return distinct-n of every text: different n-grams ÷ n-grams.

    Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models" (arXiv
    1510.03055, section 5.2), for each text by itself. Limit: 1 where a text has no n-gram.

    Args:
        texts: the tokens of each text.
        n: length of the n-grams.

    Returns:
        float64[R] in (0, 1].
    """
    shares = []
    for tokens in texts:
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        shares.append(len(set(grams)) / len(grams) if grams else 1.0)
    return np.array(shares, dtype=np.float64)


def repetition(texts: Sequence[Sequence[Hashable]], n: int = 4) -> FloatArray:
    """Return seq-rep-n of every text: the share of its n-grams that occurred in it before.

    1 − distinct-n; Welleck et al., "Neural Text Generation with Unlikelihood Training" (arXiv
    1908.04319, section 6), with their n of 4. Limit: 0 where a text has no n-gram.

    Args:
        texts: the tokens of each text.
        n: length of the n-grams.

    Returns:
        float64[R] in [0, 1).
    """
    return 1.0 - distinct(texts, n)
