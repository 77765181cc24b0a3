"""Min-K %++: Min-K % on log-probabilities standardised by the model's own distribution."""

from __future__ import annotations

import numpy as np

from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership.min_k import lowest_mean
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["NEEDS_BASE", "PAPER", "SUMMARY", "score"]

NEEDS_BASE = False
PAPER = "https://arxiv.org/abs/2404.02936"
SUMMARY = "mean of the lowest 20 % of standardised token log-probabilities"

# Where σ vanishes the model is certain and ℓ − μ is rounding, about 1e-7 in float32: dividing that
# by anything smaller than this would rank noise.
_SIGMA_FLOOR = 1e-4


def score(target: TokenScores, base: TokenScores | None = None, *, k: float = 0.2) -> FloatArray:
    """Return the mean of the lowest k of each record's (ℓ_t − μ_t)/σ_t.

    μ_t and σ_t are mean and standard deviation of log p(z | x_<t) over z ~ p(· | x_<t).

    Zhang et al., "Min-K%++" (arXiv 2404.02936); k as in Min-K %.

    Args:
        target: scores of the audited model.
        base: not used.
        k: share of the tokens, in (0, 1]; at least one token counts.

    Returns:
        float64[R]; larger = more likely a member.

    Raises:
        OptionError: if k is not in (0, 1].
    """
    standardised = (target.log_prob - target.mean) / np.maximum(target.std, _SIGMA_FLOOR)
    return lowest_mean(target, standardised, k)
