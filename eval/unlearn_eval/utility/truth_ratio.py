"""Truth ratio: does a model find the true answer likelier than false ones of the same form?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.statistics.common import as_values

__all__ = ["PAPER", "SUMMARY", "Mean", "forget_score", "truth_ratio", "utility_score"]

PAPER = "https://arxiv.org/abs/2401.06121"
SUMMARY = "whether the true answer is likelier than false ones of the same form"

Mean = Literal["geometric", "arithmetic"]
"""How the false answers are averaged: as the published logs do it, or as the paper's text says."""


def truth_ratio(
    paraphrase: npt.ArrayLike, perturbed: Sequence[npt.ArrayLike], mean: Mean = "geometric"
) -> FloatArray:
    """Return R = mean over k of p(false answer k) ÷ p(paraphrased true answer) of every record.

    p = exp(−average loss), the per-token geometric mean of the probabilities of an answer. With K
    false answers, ℓ the average loss of the paraphrase and ℓ_k those of the false answers,

        geometric:   R = exp(ℓ − (1/K) Σ_k ℓ_k)
        arithmetic:  R = exp(ℓ) · (1/K) Σ_k exp(−ℓ_k)

    so R < 1 where the truth is preferred, and geometric ≤ arithmetic. Maini et al., "TOFU" (arXiv
    2401.06121, section 2.2, "Truth Ratio") averages probabilities (arithmetic) in its text; the
    authors' code averages losses (geometric), and so do the published logs: that is the default.

    Limits: an infinite loss is a probability of 0. R is ∞ where only the truth has probability 0,
    0 where only the false answers do, and 1 where both do: the model then prefers neither.

    Args:
        paraphrase: average loss of the paraphrased true answer, [R], nats a token.
        perturbed: for every record the average losses of its false answers, at least one.
        mean: "geometric" or "arithmetic".

    Returns:
        float64[R] in [0, ∞].

    Raises:
        DataError: if lengths differ, a record has no false answer, or a loss is NaN.
        OptionError: if there is no such mean.
    """
    if mean not in get_args(Mean):
        raise OptionError(f"mean {mean!r} is unknown: choose {' or '.join(get_args(Mean))}")
    truth = -as_values(paraphrase, "paraphrase losses")
    if len(perturbed) != len(truth):
        raise DataError(
            f"{len(perturbed)} lists of perturbed losses for {len(truth)} paraphrases; one each"
        )
    false = np.array(
        [
            _log_mean(as_values(losses, f"perturbed losses of record {i}"), mean)
            for i, losses in enumerate(perturbed)
        ]
    )
    neither = np.isneginf(truth) & np.isneginf(false)
    difference = np.where(neither, 0.0, false) - np.where(neither, 0.0, truth)
    with np.errstate(over="ignore"):
        ratio: FloatArray = np.exp(difference)
    return ratio


def _log_mean(losses: FloatArray, mean: Mean) -> float:
    """Return the logarithm of the mean probability of some answers."""
    if mean == "geometric":
        return -float(losses.mean())
    return float(np.logaddexp.reduce(-losses)) - math.log(len(losses))


def forget_score(ratio: FloatArray) -> FloatArray:
    """Return min(R, 1/R): 1 where a model tells truth and falsehood not apart, 0 where it does.

    The aggregate over forget records is the mean; TOFU's code, `aggregate_eval_stat`.

    Args:
        ratio: float64[R] of `truth_ratio`.

    Returns:
        float64[R] in [0, 1]; 0 at R = 0 and at R = ∞.
    """
    with np.errstate(divide="ignore"):
        smaller: FloatArray = np.minimum(ratio, 1 / ratio)
    return smaller


def utility_score(ratio: FloatArray) -> FloatArray:
    """Return max(0, 1 − R): how far a model prefers the truth; the mean goes into model utility.

    TOFU (arXiv 2401.06121, section 2.2) and its code, `aggregate_eval_stat`.

    Args:
        ratio: float64[R] of `truth_ratio`.

    Returns:
        float64[R] in [0, 1].
    """
    preferred: FloatArray = np.maximum(0.0, 1 - ratio)
    return preferred
