"""EZ: look for traces of training only where the model still errs."""

from __future__ import annotations

import numpy as np

from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership.base import log_ratio
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["NEEDS_BASE", "PAPER", "SUMMARY", "score"]

NEEDS_BASE = True
PAPER = "https://arxiv.org/abs/2601.12104"
SUMMARY = "share of the log-probability moved upwards, over tokens the model gets wrong"


def score(target: TokenScores, base: TokenScores | None = None) -> FloatArray:
    """Return P/(P + N) over the error zone E = {t: arg-max ≠ x_t} of every record.

    P = Σ_E max(Δ_t, 0) and N = Σ_E max(−Δ_t, 0) with Δ_t = ℓ_t − ℓ_t,base. The paper (arXiv
    2601.12104) uses P/N; P/(P + N) ranks records the same way and stays finite. A record without
    errors is the strongest member and scores 1; one whose errors did not move at all (P = N = 0)
    says nothing either way and scores 1/2.

    Args:
        target: scores of the audited model.
        base: scores of the same records under its base model (adapters disabled).

    Returns:
        float64[R] in [0, 1]; larger = more likely a member.

    Raises:
        DataError: if `base` is missing or does not cover the same tokens.
    """
    delta = np.where(target.hit, 0.0, log_ratio(target, base, "ez"))
    up = target.per_record(np.maximum(delta, 0.0), "sum")
    down = target.per_record(np.maximum(-delta, 0.0), "sum")
    errs = target.per_record(~target.hit, "sum") > 0
    odds = np.divide(down, up, out=np.full_like(up, np.inf), where=up > 0)
    moved = np.where(up + down > 0, 1 / (1 + odds), 0.5)
    return np.where(errs, moved, 1.0)
