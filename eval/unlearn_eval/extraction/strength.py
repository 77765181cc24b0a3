"""Extraction strength: how little of the target must be given away before the rest follows."""

from __future__ import annotations

from typing import Any

import numpy as np

from unlearn_eval.arrays import BoolArray, FloatArray, IntArray
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["METRICS", "PAPER", "SUMMARY", "completed", "score"]

METRICS: dict[str, dict[str, Any]] = {"mean": {}}
PAPER = "https://arxiv.org/abs/2406.09179"
SUMMARY = "share of the target that greedy decoding completes by itself"


def score(target: TokenScores, base: TokenScores | None = None) -> FloatArray:
    """Return 1 − k*/|y| for every record, and 0 if no suffix is exact.

    k* is the earliest position from which greedy decoding gives the rest of the target exactly:
    one past the last miss under teacher forcing. A record whose last token is a miss has no exact
    suffix, also when that is its only token.

    Wang et al., "Towards Effective Evaluations and Comparisons for LLM Unlearning Methods" (arXiv
    2406.09179).

    Args:
        target: scores of the audited model.
        base: not used.

    Returns:
        float64[R] in [0, 1].
    """
    return completed(target.hit, target.offsets)


def completed(hit: BoolArray, offsets: IntArray) -> FloatArray:
    """Return 1 − k*/|y| from the arg-max hits of records laid end to end.

    Args:
        hit: bool[N], whether the arg-max is the target token under teacher forcing.
        offsets: int64[R + 1]; record i owns the tokens offsets[i]:offsets[i + 1], at least one.

    Returns:
        float64[R] in [0, 1].
    """
    if len(offsets) < 2:
        return np.empty(0, dtype=np.float64)
    lengths = np.diff(offsets)
    place = np.arange(hit.size) - np.repeat(offsets[:-1], lengths)
    earliest = np.maximum.reduceat(np.where(hit, 0, place + 1), offsets[:-1])
    return 1.0 - earliest / lengths
