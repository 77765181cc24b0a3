"""Tier B: canaries of which a coin decided, before training, which were included."""

from __future__ import annotations

import math

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership import loss
from unlearn_eval.scores.measures import Scores
from unlearn_eval.statistics import (
    EpsilonBound,
    epsilon_bound,
    guesses_p_value,
    holm,
    records_for_equivalence,
    right_guesses,
    sign_flip_test,
    twin_theta,
)
from unlearn_eval.verdict.evidence import Evidence, MissingError, View, part_of, reason
from unlearn_eval.verdict.policy import DEVIATION, Policy
from unlearn_eval.verdict.result import Gate, ProbeResult, TierJudgement
from unlearn_eval.verdict.tiers.twins import SplitScores, split_scores

__all__ = ["bound_of", "decide_by_canaries", "guesses_refute", "judge_claim", "judge_promise"]

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

    That of `guesses_p_value` with δ = 0 and a guess made of every pair. ε is of replacing a record
    by its pair.

    Args:
        differences: [n], score of the included minus score of the other canary.
        epsilon: claimed, ≥ 0.

    Returns:
        The p-value.
    """
    n = len(differences)
    return guesses_p_value(right_guesses(differences), n, n, epsilon, 0.0)


def bound_of(evidence: Evidence, probe: str, delta: float, level: float) -> EpsilonBound | str:
    """Return the lower bound of ε that canaries show of the audited model, or why there is none.

    A guess is made of every pair, so their number is fixed. As a coin swaps two canaries, ε is that
    of two changes; what is returned is of one, see `epsilon_bound`.

    Args:
        evidence: with canaries, or without.
        probe: by whose scores is guessed.
        delta: δ of adding or removing one unit.
        level: confidence.

    Returns:
        The bound.
    """
    if evidence.twins is None or not evidence.twins.randomised:
        return "it takes canaries, of which a coin included one of each pair"
    scores = _pairs(evidence, evidence.plain, "after", probe)
    if isinstance(scores, str):
        return scores
    n = len(scores.forget)
    return epsilon_bound(right_guesses(_differences(scores)), n, n, delta, level, changes=2)


def judge_promise(evidence: Evidence, policy: Policy) -> ProbeResult | None:
    """Compare the ε that a lineage claims with its lower bound, at an error α of its own.

    Args:
        evidence: with the claim, if there is one.
        policy: α, and its first probe, by which is guessed.

    Returns:
        failed if the lower bound exceeds the claim, else passed; neither where there is no bound;
        None if nothing is claimed.
    """
    claim = evidence.claim
    if claim is None:
        return None
    words = (
        f"differential privacy, ε = {claim.epsilon:g} and δ = {claim.delta:.2g} claimed for adding "
        f"or removing one {claim.unit}: "
    )
    found = bound_of(evidence, policy.tested[0], claim.delta, 1 - policy.alpha)
    statistic = "lower bound of ε"
    if isinstance(found, str):
        words += f"not tested: {found}"
        return ProbeResult("epsilon_lower", statistic, None, None, None, False, False, words)
    refuted = found.low > claim.epsilon
    shown = f"ε is at least {found.low:.2f} ({1 - policy.alpha:.0%} confidence)"
    told = f"{found.right} of {found.guesses} canaries were told from their pairs"
    if refuted:
        words += f"broken: {shown}, as {told}"
    else:
        words += f"not refuted: {shown}; so many pairs cannot show more than {found.ceiling:.2f}"
    return ProbeResult(
        "epsilon_lower", statistic, found.low, None, None, not refuted, refuted, words
    )


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
