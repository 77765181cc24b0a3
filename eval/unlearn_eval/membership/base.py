"""Compare a model with its base, token by token."""

from __future__ import annotations

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["log_ratio"]


def log_ratio(target: TokenScores, base: TokenScores | None, attack: str) -> FloatArray:
    """Return Δ_t = ℓ_t − ℓ_t,base for every token; 0 where both models rule the token out.

    Args:
        target: scores of the audited model.
        base: scores of the same records under the base model.
        attack: the name of the attack that asks, for the message.

    Returns:
        float64[N], nats; ±inf where only one of the models gives a token probability 0.

    Raises:
        DataError: if there is no base, or it was scored on other records or tokens, or a record
            has tokens at both +inf and −inf, which no sum can hold.
    """
    if base is None:
        raise DataError(f"attack {attack!r} needs the base model's scores of the same records")
    if target.ids != base.ids or not np.array_equal(target.offsets, base.offsets):
        raise DataError(
            f"attack {attack!r}: the model and its base were scored on different records or "
            "tokens; score both with the same data, template and length limit"
        )
    both_zero = np.isneginf(target.log_prob) & np.isneginf(base.log_prob)
    delta = np.where(both_zero, 0.0, target.log_prob) - np.where(both_zero, 0.0, base.log_prob)
    up = target.per_record(np.isposinf(delta), "sum") > 0
    down = target.per_record(np.isneginf(delta), "sum") > 0
    if (up & down).any():
        record = target.ids[int(np.argmax(up & down))]
        raise DataError(
            f"attack {attack!r}: record {record!r} has a token that only the model rules out and "
            "one that only its base does, so it has no score; leave the record out"
        )
    return delta
