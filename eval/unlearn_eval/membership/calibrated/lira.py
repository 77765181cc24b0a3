"""LiRA: how likely is a record's score among models that saw it, and among models that did not?"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import BoolArray, FloatArray
from unlearn_eval.membership.calibrated.spread import reference_scores
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["MIN_RECORD_VARIANCE", "PAPER", "SUMMARY", "confidence", "offline", "online"]

PAPER = "https://arxiv.org/abs/2112.03570"
SUMMARY = "standard deviations above the scores of models that never saw the record"

MIN_RECORD_VARIANCE = 32
"""Fewest references, on each side, whose spread is taken record by record.

The paper finds one variance for all records better below 64 shadow models, half of which hold a
record.
"""

Spread = Literal["auto", "record", "global"]

# 1 − p of float32 is no finer than this: beyond, certainty would be ranked by rounding.
_CERTAIN = 1e-7


def confidence(scores: TokenScores) -> FloatArray:
    """Return log p/(1 − p) of every record, with p = exp(mean ℓ_t).

    The paper's φ(p) = log p/(1 − p), chosen because it is nearly normal, with the geometric mean
    over tokens in place of a class probability. Where p is small it is the mean log-probability,
    which is nearly normal as a mean over tokens; near p = 1, where that piles up at 0, it is −log
    of the loss.

    Args:
        scores: of one state.

    Returns:
        float64[R]; −inf for a record that the model rules out, at most 16.1 (1 − p = 1e-7).
    """
    mean = np.minimum(scores.per_record(scores.log_prob), 0.0)
    logits: FloatArray = mean - np.log(np.maximum(-np.expm1(mean), _CERTAIN))
    return logits


def offline(
    target: npt.ArrayLike,
    references: npt.ArrayLike,
    member: npt.ArrayLike | None = None,
    *,
    variance: Spread = "auto",
) -> FloatArray:
    """Return z = (φ − μ_out)/σ_out of every record, from references that did not see it.

    The paper's offline attack is the one-sided test Λ = 1 − P(Z > φ) = Φ(z), Z ~ N(μ_out, σ_out²).
    z ranks alike and does not end at 1, where double precision would put everything beyond 8.3
    deviations. (The paper's code gives the density of φ instead, which is two-sided, takes medians
    for means, and for the variance of all records counts what records differ by.)

    Args:
        target: [R], `confidence` in the audited model; ±inf is allowed.
        references: [K, R], the same under K references.
        member: bool [K, R], which references saw a record, and are not used for it; None if none.
        variance: of each record by itself, or of all records together, Σ (φ − μ)²/Σ (K_r − 1);
            "auto" takes each by itself from `MIN_RECORD_VARIANCE` references on. A record whose
            references all agree takes that of all.

    Returns:
        float64[R]; larger = more likely a member.

    Raises:
        DataError: if shapes or values do not fit, a record has no reference that did not see it,
            or no record has two of them that differ.
        OptionError: if `variance` is unknown.
    """
    x, others, inside = reference_scores("lira", target, references, member)
    mean, std = _fit(others, ~inside, variance, "never saw")
    return (x - mean) / std


def online(
    target: npt.ArrayLike,
    references: npt.ArrayLike,
    member: npt.ArrayLike,
    *,
    variance: Spread = "auto",
) -> FloatArray:
    """Return log N(φ; μ_in, σ_in²) − log N(φ; μ_out, σ_out²) of every record.

    Algorithm 1 of the paper, in logarithms. Unlike the z of `offline` this is no monotone function
    of φ where the variances differ: a score far above both may count against membership.

    Args:
        target: [R], `confidence` in the audited model.
        references: [K, R], the same under K references.
        member: bool [K, R], which references saw a record.
        variance: as for `offline`, for either side.

    Returns:
        float64[R]; larger = more likely a member.

    Raises:
        DataError: if shapes or values do not fit, a record lacks references on a side (use
            `offline`), or no record has two of a side that differ.
        OptionError: if `variance` is unknown.
    """
    x, others, inside = reference_scores("lira", target, references, member)
    if not np.isfinite(x).all():
        record = int(np.argmax(~np.isfinite(x)))
        raise DataError(
            f"attack 'lira': record {record} (from 0) has no finite score in the target"
        )
    mean_in, std_in = _fit(others, inside, variance, "saw")
    mean_out, std_out = _fit(others, ~inside, variance, "never saw")
    ratios: FloatArray = (
        np.log(std_out / std_in)
        + 0.5 * ((x - mean_out) / std_out) ** 2
        - 0.5 * ((x - mean_in) / std_in) ** 2
    )
    return ratios


def _fit(
    references: FloatArray, chosen: BoolArray, variance: Spread, what: str
) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of each record over the references chosen for it."""
    if variance not in ("auto", "record", "global"):
        raise OptionError(f"variance {variance!r} is not 'auto', 'record' or 'global'")
    count = chosen.sum(axis=0)
    if not count.all():
        record = int(np.argmin(count))
        raise DataError(
            f"attack 'lira': no reference {what} record {record} (from 0); add one, leave the "
            "record out, or use the offline attack where all lack a model that saw them"
        )
    mean = np.where(chosen, references, 0.0).sum(axis=0) / count
    squares = (np.where(chosen, references - mean, 0.0) ** 2).sum(axis=0)
    spare = int((count - 1).sum())
    pooled = float(squares.sum()) / spare if spare else 0.0
    if not pooled > 0:
        raise DataError(
            f"attack 'lira': no record has two references that {what} it and differ; give two or "
            "more, trained apart"
        )
    each = variance == "record" or (variance == "auto" and count.min() >= MIN_RECORD_VARIANCE)
    own = squares / np.maximum(count - 1, 1)
    return mean, np.sqrt(np.where((own > 0) & each, own, pooled))
