"""zlib attack: likelihood, discounted for text that any compressor would find easy."""

from __future__ import annotations

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["NEEDS_BASE", "PAPER", "SUMMARY", "score"]

NEEDS_BASE = False
PAPER = "https://arxiv.org/abs/2012.07805"
SUMMARY = "mean log-probability over the zlib-compressed length of the text"


def score(target: TokenScores, base: TokenScores | None = None) -> FloatArray:
    """Return mean ℓ / zlib-compressed bytes of the target text, for every record.

    Carlini et al., "Extracting Training Data from Large Language Models" (arXiv 2012.07805).

    Args:
        target: scores of the audited model, with `text_bytes`.
        base: not used.

    Returns:
        float64[R], nats per compressed byte; larger = more likely a member.

    Raises:
        DataError: if `text_bytes` is missing or not positive.
    """
    if target.text_bytes is None:
        raise DataError("attack 'zlib' needs the compressed length of the texts; score them again")
    wrong = np.flatnonzero(target.text_bytes < 1)
    if wrong.size:
        raise DataError(f"record {target.ids[wrong[0]]!r}: compressed length below one byte")
    return target.per_record(target.log_prob) / target.text_bytes
