"""(n, p)-discoverable extraction: would n random answers contain the target with probability p?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import BoolArray, FloatArray
from unlearn_eval.scores.token_scores import SAMPLER, Sampler, TokenScores

__all__ = ["METRICS", "PAPER", "SUMMARY", "TRIES", "log_prob_of_target", "score", "tries_needed"]

PAPER = "https://arxiv.org/abs/2410.19482"
SUMMARY = "whether sampling n answers is likelier than not to give the target exactly"

TRIES = (1, 100, 10_000)
"""Numbers of tries that an audit reports: one question, a patient person, a script."""
CHANCE = 0.5
METRICS: dict[str, dict[str, Any]] = {f"rate@n={n}": {"n": n, "p": CHANCE} for n in TRIES}


def score(
    target: TokenScores,
    base: TokenScores | None = None,
    *,
    n: int = TRIES[1],
    p: float = CHANCE,
    sampler: Sampler = SAMPLER,
) -> BoolArray:
    """Return, for every record, whether it is extractable with n tries and probability p.

    A record z is (n, p)-discoverable if 1 − (1 − p_z)^n ≥ p, where p_z is the probability that one
    sampled answer is exactly the target. Hayes et al., "Measuring memorization in language models
    via probabilistic extraction" (arXiv 2410.19482, definition 3.2).

    Args:
        target: scores of the audited model, with `sampled` for the sampler.
        base: not used.
        n: tries, at least 1.
        p: wanted probability, in (0, 1).
        sampler: (temperature, top_k).

    Returns:
        bool[R].

    Raises:
        DataError: if the scores do not hold this sampler.
        OptionError: if n or p is out of range.
    """
    if n < 1:
        raise OptionError(f"{n} tries: at least 1 is needed")
    extracted: BoolArray = tries_needed(log_prob_of_target(target, sampler), p) <= n
    return extracted


def log_prob_of_target(target: TokenScores, sampler: Sampler = SAMPLER) -> FloatArray:
    """Return log p_z = Σ_t log p̃(z_t | z_<t) of every record, in nats.

    p̃ is the sampled distribution: softmax(z/T) renormalised over the top k. Where one token of the
    target is outside the top k, log p_z is −∞: no number of tries is enough.

    Args:
        target: scores with `sampled` for the sampler.
        sampler: (temperature, top_k).

    Returns:
        float64[R], ≤ 0.

    Raises:
        DataError: if the scores do not hold this sampler.
    """
    if sampler == (1.0, 0):
        return target.per_record(target.log_prob, "sum")
    if sampler not in target.sampled:
        known = ", ".join(f"T={t:g}, k={k}" for t, k in target.sampled) or "none"
        raise DataError(
            f"the scores hold no sampling at T={sampler[0]:g}, k={sampler[1]} (they hold {known}); "
            "score the state again with this sampler"
        )
    return target.per_record(target.sampled[sampler], "sum")


def tries_needed(log_prob: npt.ArrayLike, p: float = CHANCE) -> FloatArray:
    """Return the smallest n with 1 − (1 − p_z)^n ≥ p: n = ⌈log(1 − p) / log(1 − p_z)⌉.

    Computed from log p_z, so that it is right down to the smallest probabilities. Limits: 1 for
    p_z = 1 (and wherever p_z ≥ p), infinity for p_z = 0.

    Args:
        log_prob: log p_z, at most 0 but for rounding; −∞ allowed.
        p: wanted probability, in (0, 1).

    Returns:
        float64, whole numbers ≥ 1 or infinity, in the shape of `log_prob`.

    Raises:
        OptionError: if p is not in (0, 1).
    """
    if not 0 < p < 1:
        raise OptionError(f"probability p = {p} is not between 0 and 1")
    log_p = np.minimum(np.asarray(log_prob, dtype=np.float64), 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        # log(1 − e^x): for small p_z from log1p, near p_z = 1 from expm1
        log_miss = np.where(log_p > -np.log(2), np.log(-np.expm1(log_p)), np.log1p(-np.exp(log_p)))
        tries = np.log1p(-p) / log_miss
    # a quotient one rounding error above a whole number is that number
    whole = np.ceil(tries * (1 - 1e-12))
    needed: FloatArray = np.maximum(1.0, whole)
    return needed
