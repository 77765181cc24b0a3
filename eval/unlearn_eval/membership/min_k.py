"""Min-K %: members have few tokens that surprise the model."""

from __future__ import annotations

import numpy as np

from unlearn.errors import OptionError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["NEEDS_BASE", "PAPER", "SUMMARY", "lowest_mean", "score"]

NEEDS_BASE = False
PAPER = "https://arxiv.org/abs/2310.16789"
SUMMARY = "mean of the lowest 20 % of token log-probabilities"


def score(target: TokenScores, base: TokenScores | None = None, *, k: float = 0.2) -> FloatArray:
    """Return the mean of the lowest k of each record's ℓ_t.

    Shi et al., "Detecting Pretraining Data from Large Language Models" (arXiv 2310.16789), whose
    k = 20 % is the default.

    Args:
        target: scores of the audited model.
        base: not used.
        k: share of the tokens, in (0, 1]; at least one token counts. 1 gives the loss attack.

    Returns:
        float64[R]; larger = more likely a member.

    Raises:
        OptionError: if k is not in (0, 1].
    """
    return lowest_mean(target, target.log_prob, k)


def lowest_mean(scores: TokenScores, values: FloatArray, k: float) -> FloatArray:
    """Return the mean over the max(1, ⌊k·|x|⌋) smallest values of every record.

    Args:
        scores: says which tokens belong to which record.
        values: float64[N], one value a token.
        k: share of the tokens, in (0, 1].

    Returns:
        float64[R].

    Raises:
        OptionError: if k is not in (0, 1].
    """
    if not 0 < k <= 1:
        raise OptionError(f"k is {k}; give the share of lowest tokens as a number in (0, 1]")
    record = np.repeat(np.arange(scores.records), scores.lengths)
    order = np.lexsort((values, record))
    place = np.arange(values.size) - np.repeat(scores.offsets[:-1], scores.lengths)
    # 0.29 * 100 is 28.999…: the small addend keeps whole products whole
    count = np.maximum(1, np.floor(k * scores.lengths + 1e-9)).astype(np.int64)
    lowest = place < np.repeat(count, scores.lengths)
    sums = np.bincount(record[lowest], values[order][lowest], minlength=scores.records)
    means: FloatArray = sums / count
    return means
