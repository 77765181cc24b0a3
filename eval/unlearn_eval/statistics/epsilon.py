"""What guesses about canaries show of ε: auditing by one training run (arXiv 2305.08846)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from unlearn_eval.arrays import FloatArray

__all__ = ["EpsilonBound", "epsilon_bound", "guesses_p_value", "right_guesses"]

_MOST = 60.0
"""ε up to which is searched: e⁶⁰ guesses would be needed to show more."""


class EpsilonBound(NamedTuple):
    """A lower bound of ε, and the most that as many guesses could have shown.

    Attributes:
        low: ε is at least this, with the confidence asked for; 0 where nothing is shown.
        ceiling: the same had every guess been right.
        right: guesses that were.
        guesses: how many were made, a number fixed beforehand.
    """

    low: float
    ceiling: float
    right: int
    guesses: int


def right_guesses(differences: FloatArray) -> int:
    """Return how many pairs are guessed right, a guess made of every pair.

    The higher score is guessed to be the included one; a tie is half a guess, rounded down in all.

    Args:
        differences: [m], score of the included minus score of the other canary.

    Returns:
        How many.
    """
    return math.floor(float(np.sum(differences > 0) + 0.5 * np.sum(differences == 0)))


def guesses_p_value(right: int, guesses: int, coins: int, epsilon: float, delta: float) -> float:
    """Return how probable so many right guesses are at most, if (ε, δ)-DP holds.

    Formula: with W ~ Bin(r, e^ε/(1 + e^ε)) and v right ones of r guesses about m coins,
    p = min(1, P(W ≥ v) + 2·m·δ·max_{1≤i≤v} P(v − i ≤ W < v)/i): Steinke, Nasr and Jagielski,
    "Privacy Auditing with One (1) Training Run" (arXiv 2305.08846, theorem 5.2). (ε, δ) is of what
    one coin changes. r must not depend on the scores.

    Args:
        right: v.
        guesses: r.
        coins: m ≥ r.
        epsilon: ε ≥ 0.
        delta: δ in [0, 1].

    Returns:
        The p-value.
    """
    if not 0 <= right <= guesses <= coins:
        raise ValueError(f"{right} right of {guesses} guesses about {coins} coins")
    guess = stats.binom(guesses, 1 / (1 + math.exp(-epsilon)))
    p = float(guess.sf(right - 1))
    if delta and right:
        below = np.cumsum(guess.pmf(np.arange(right - 1, -1, -1)))
        p += 2 * coins * delta * float(np.max(below / np.arange(1, right + 1)))
    return min(1.0, p)


def epsilon_bound(
    right: int, guesses: int, coins: int, delta: float, level: float, changes: int = 1
) -> EpsilonBound:
    """Return the largest ε that guesses refute.

    Formula: ε_low = sup {ε ≥ 0 : p(right; k·ε, δ·(e^{kε} − 1)/(e^ε − 1)) ≤ 1 − level}, p of
    `guesses_p_value`, k the changes that one coin makes. A coin that swaps two canaries makes k = 2
    where ε is of adding or removing one: then it is (2ε, (1 + e^ε)·δ)-DP by group privacy. With
    δ = 0, k = 1 and all of r right, ε_low = ln(a/(1 − a)), a = (1 − level)^{1/r}: 3.85 for 143.

    Args:
        right: guesses that were right.
        guesses: how many were made; a number fixed beforehand.
        coins: m.
        delta: δ of one change.
        level: confidence, such as .95.
        changes: k, 1 or 2.

    Returns:
        The bound and its ceiling.
    """

    def largest(correct: int) -> float:
        def surplus(epsilon: float) -> float:
            whole = min(1.0, delta * (1.0 if changes == 1 else 1 + math.exp(epsilon)))
            p = guesses_p_value(correct, guesses, coins, changes * epsilon, whole)
            return p - (1 - level)

        if surplus(0.0) > 0:
            return 0.0
        return float(optimize.brentq(surplus, 0.0, _MOST / changes, xtol=1e-6))

    return EpsilonBound(largest(right), largest(guesses), right, guesses)
