"""Loss attack: members are the records that the model finds likely."""

from __future__ import annotations

from unlearn_eval.arrays import FloatArray
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["NEEDS_BASE", "PAPER", "SUMMARY", "score"]

NEEDS_BASE = False
PAPER = "https://arxiv.org/abs/1709.01604"
SUMMARY = "mean log-probability of the target tokens"


def score(target: TokenScores, base: TokenScores | None = None) -> FloatArray:
    """Return the mean token log-probability, (1/|x|) Σ_t ℓ_t, of every record.

    Yeom et al., "Privacy Risk in Machine Learning" (arXiv 1709.01604), with the loss negated.

    Args:
        target: scores of the audited model.
        base: not used.

    Returns:
        float64[R]; larger = more likely a member.
    """
    return target.per_record(target.log_prob)
