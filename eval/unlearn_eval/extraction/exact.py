"""Exact memorisation: the share of target tokens that the model would have chosen itself."""

from __future__ import annotations

from typing import Any

from unlearn_eval.arrays import FloatArray
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["METRICS", "PAPER", "SUMMARY", "score"]

METRICS: dict[str, dict[str, Any]] = {"mean": {}}
PAPER = "https://arxiv.org/abs/2205.10770"
SUMMARY = "share of target tokens that are the model's first choice"


def score(target: TokenScores, base: TokenScores | None = None) -> FloatArray:
    """Return the fraction of arg-max hits, (1/|y|) Σ_t [arg-max = y_t], of every record.

    Tirumala et al., "Memorization Without Overfitting" (arXiv 2205.10770).

    Args:
        target: scores of the audited model.
        base: not used.

    Returns:
        float64[R] in [0, 1].
    """
    return target.per_record(target.hit)
