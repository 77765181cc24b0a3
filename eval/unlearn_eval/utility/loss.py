"""Mean token loss of each record: on retain and holdout, the first sign of a damaged model."""

from __future__ import annotations

from unlearn_eval.arrays import FloatArray
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["score"]


def score(target: TokenScores) -> FloatArray:
    """Return l̄ = −(1/|y|) Σ_t log p_t of every record.

    Args:
        target: scores of the audited model.

    Returns:
        float64[R], nats a token; larger = worse predicted.
    """
    return -target.per_record(target.log_prob)
