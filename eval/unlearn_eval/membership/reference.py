"""Reference difference: members are the records that became likelier than in the base model."""

from __future__ import annotations

from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership.base import log_ratio
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["NEEDS_BASE", "PAPER", "SUMMARY", "score"]

NEEDS_BASE = True
PAPER = "https://arxiv.org/abs/2203.03929"
SUMMARY = "reference difference: mean log-probability minus the base model's"


def score(target: TokenScores, base: TokenScores | None = None) -> FloatArray:
    """Return mean ℓ − mean ℓ_base of every record: a log-likelihood ratio per token.

    Mireshghallah et al., "Quantifying Privacy Risks of Masked Language Models Using Membership
    Inference Attacks" (arXiv 2203.03929), with the base model as the reference.

    Args:
        target: scores of the audited model.
        base: scores of the same records under its base model (adapters disabled).

    Returns:
        float64[R]; larger = more likely a member.

    Raises:
        DataError: if `base` is missing or does not cover the same tokens.
    """
    return target.per_record(log_ratio(target, base, "reference"))
