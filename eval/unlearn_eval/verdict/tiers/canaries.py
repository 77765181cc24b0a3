"""Tier B: canaries of which a coin decided, before training, which were included."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership import loss
from unlearn_eval.scores.measures import Scores
from unlearn_eval.statistics import holm, records_for_equivalence, sign_flip_test, twin_theta
from unlearn_eval.verdict.evidence import Evidence, MissingError, View, part_of, reason
from unlearn_eval.verdict.policy import DEVIATION, Policy
from unlearn_eval.verdict.result import Gate, ProbeResult, TierJudgement
from unlearn_eval.verdict.tiers.twins import SplitScores, split_scores

__all__ = ["decide_by_canaries", "guesses_refute", "judge_claim"]

_STATISTIC = "θ = P(included > left out)"


def decide_by_canaries(
    evidence: Evidence, policy: Policy, level: float | None = None
) -> TierJudgement:
    """Judge every probe in every audited form of the model by pairs of canaries.

    - passed iff the interval of θ at level 1 − 2α lies within ½ ± δ.
    - failed iff it did not pass and Holm's p of the exact two-sided sign-flip test is ≤ α′. The
      coin makes the test exact whatever the model does, so no negative control is needed (G2).

    Args:
        evidence: with randomised twins.
        policy: the policy.
        level: α′, error of FAIL; by default the policy's α.

    Returns:
        What was found.
    """
    level = policy.alpha if level is None else level
    cells = [(view, probe) for view in evidence.audited(policy) for probe in policy.tested]
    cell_scores: list[SplitScores | str] = []
    for view, probe in cells:
        cell_scores.append(_pairs(evidence, evidence.scores(view), "after", probe))
    adjusted = holm([_p_value(scores) for scores in cell_scores])
    probes = [
        _result(view, probe, scores, p <= level, p, policy)
        for (view, probe), scores, p in zip(cells, cell_scores, adjusted, strict=True)
    ]
    advice = []
    pairs = evidence.forget.records
    needed = records_for_equivalence(policy.delta, 1, policy.alpha)
    if any(not (r.passed or r.failed) for r in probes) and pairs < needed:
        advice.append(f"{needed} pairs of canaries, to show θ within ½ ± {policy.delta:g}")
    negative = Gate("G2", None, "not needed: a coin decided which canaries were included")
    return TierJudgement(probes, [_before(evidence, policy), negative], advice)


def guesses_refute(differences: FloatArray, epsilon: float) -> float:
    """Return the p-value of a claimed ε, from guesses which canary of each pair was included.

    The higher score is guessed; a tie is half a guess, rounded down. Under pure ε each guess is
    right with probability at most e^ε/(1 + e^ε) whatever the others are, so the number of right
    ones exceeds a binomial one with probability at most P(Bin(n, e^ε/(1 + e^ε)) ≥ right). Steinke,
    Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (arXiv 2305.08846, section 5,
    with δ = 0 and every guess made). ε is of replacing a record by its pair.

    Args:
        differences: [n], score of the included minus score of the other canary.
        epsilon: claimed, ≥ 0.

    Returns:
        The p-value.
    """
    right = math.floor(float(np.sum(differences > 0) + 0.5 * np.sum(differences == 0)))
    chance = 1 / (1 + math.exp(-epsilon))
    return float(stats.binom.sf(right - 1, len(differences), chance))


def judge_claim(evidence: Evidence, policy: Policy) -> ProbeResult | None:
    """Test a claimed ε by the first probe of the policy, at an error α of its own.

    Args:
        evidence: with canaries, whatever the tier.
        policy: which ε is claimed, if any.

    Returns:
        failed if the claim is refuted, passed if it is not; neither without canaries; None if
        nothing is claimed.
    """
    if policy.epsilon is None:
        return None
    statistic, words = "p of the claim", f"claimed ε = {policy.epsilon:g}: "
    canaries = evidence.twins is not None and evidence.twins.randomised
    scores = _pairs(evidence, evidence.plain, "after", policy.tested[0]) if canaries else "none"
    if isinstance(scores, str):
        words += "not tested: it takes canaries, of which a coin included one of each pair"
        return ProbeResult("epsilon", statistic, None, None, None, False, False, words)
    p = guesses_refute(_differences(scores), policy.epsilon)
    refuted = p <= policy.alpha
    words += f"{'refuted' if refuted else 'not refuted'}, p = {p:.3f}"
    return ProbeResult("epsilon", statistic, p, None, None, not refuted, refuted, words)


def _pairs(evidence: Evidence, scores: Scores, state: str, probe: str) -> SplitScores | str:
    """Return scores of (included, left out) pair by pair, or why there are none."""
    assert evidence.twins is not None
    other = evidence.twins.positions[:, 0]
    try:
        if probe != DEVIATION:
            both = split_scores(probe, scores, state)
            return SplitScores(both.forget, both.holdout[other])
        included = loss.score(part_of(scores, state, "forget"))
        left_out = loss.score(part_of(scores, state, "holdout"))[other]
        # the median of both sides together stays where it is when a pair changes places, so that
        # the coin makes deviations from it exchangeable too
        centre = np.median(np.concatenate((included, left_out)))
        if not np.isfinite(centre):
            raise MissingError("half of the scores are infinite")
        return SplitScores(np.abs(included - centre), np.abs(left_out - centre))
    except DataError as error:
        return f"no statistic: {reason(error)}"


def _p_value(scores: SplitScores | str) -> float:
    if isinstance(scores, str):
        return 1.0
    return sign_flip_test(_differences(scores), "two-sided").p_value


def _differences(scores: SplitScores) -> FloatArray:
    """Return included − left out; where one is infinite, only the order of every pair."""
    with np.errstate(invalid="ignore"):
        differences = scores.forget - scores.holdout
    return differences if np.isfinite(differences).all() else np.sign(np.nan_to_num(differences))


def _result(
    view: View, probe: str, scores: SplitScores | str, rejected: bool, p: float, policy: Policy
) -> ProbeResult:
    if isinstance(scores, str):
        words = f"{probe}: {scores}"
        return ProbeResult(probe, _STATISTIC, None, None, None, False, False, words, *view)
    theta = twin_theta(scores.forget, scores.holdout, 1 - 2 * policy.alpha)
    low, high = 0.5 - policy.delta, 0.5 + policy.delta
    passed = bool(theta.method == "matched" and low <= theta.low and theta.high <= high)
    failed = bool(rejected and not passed)
    words = (
        f"{probe}: θ = {theta.value:.2f} [{theta.low:.2f}, {theta.high:.2f}] over {theta.n} pairs; "
        f"passes within [{low:.2f}, {high:.2f}]; adjusted p of the sign flips = {p:.3f}"
    )
    limits = (theta.low, theta.high)
    return ProbeResult(probe, _STATISTIC, theta.value, *limits, passed, failed, words, *view)


def _before(evidence: Evidence, policy: Policy) -> Gate:
    """G1: in the model before, some probe's lower limit of θ exceeds ½ + δ."""
    if "before" not in evidence.plain:
        return Gate("G1", None, "no scores of the model before: pass --before to the audit")
    level = 1 - 2 * policy.alpha / len(policy.tested)
    lows = []
    for probe in policy.tested:
        scores = _pairs(evidence, evidence.plain, "before", probe)
        if not isinstance(scores, str):
            lows.append((twin_theta(scores.forget, scores.holdout, level).low, probe))
    usable = [entry for entry in lows if not math.isnan(entry[0])]
    if not usable:
        return Gate("G1", None, "before: no interval that decides")
    best, name = max(usable)
    needed = 0.5 + policy.delta
    words = f"before: θ is at least {best:.2f} by {name}; more than {needed:.2f} is needed"
    return Gate("G1", bool(best > needed), words)
