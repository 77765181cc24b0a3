"""Tier C with one subject: is it a stranger among people that were never trained on?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.scores.measures import Scores
from unlearn_eval.statistics import MIN_TWINS, RankTest, holm, subject_rank_test
from unlearn_eval.verdict.evidence import Evidence, reason
from unlearn_eval.verdict.policy import Policy
from unlearn_eval.verdict.result import Gate, ProbeResult, TierJudgement
from unlearn_eval.verdict.tiers.twins import split_scores

__all__ = ["STANDS_OUT", "decide_by_rank"]

STANDS_OUT = 0.2
"""A subject whose rank among the twins is this rare, in what never saw it, is not comparable with
them. The choice is this project's; one that is exchangeable is turned away that often."""


def decide_by_rank(evidence: Evidence, policy: Policy, level: float | None = None) -> TierJudgement:
    """Judge every probe by the rank of the subject's mean score among twin subjects.

    One subject is one observation however many records it has: p = rank/(twins + 1), two-sided,
    exact if it is exchangeable with the twins (G2) and their means are over as many records:
    means over many vary less than means over few, and the subject would be extreme by that alone.
    So of each twin subject its first n records are used, n the subject's own. Twins with fewer stay
    in: their means vary more, which makes the subject look less extreme, and the test conservative.
    failed iff Holm's p over all probes and forms is ≤ α′; a rank can never show equivalence, so
    nothing passes.

    Args:
        evidence: of one subject.
        policy: the policy.
        level: α′, error of FAIL; by default the policy's α.

    Returns:
        What was found.
    """
    level = policy.alpha if level is None else level
    cells = [(view, probe) for view in evidence.audited(policy) for probe in policy.tested]
    tests = [_test(evidence, evidence.scores(view), "after", probe) for view, probe in cells]
    p_values = [1.0 if isinstance(t, str) or math.isnan(t.p_value) else t.p_value for t in tests]
    # 1/20 and the like are not exact in binary
    reached = [bool(p <= level * (1 + 1e-9)) for p in holm(p_values)]
    probes = [
        ProbeResult(
            probe,
            "rank of the subject's mean score, p",
            None if isinstance(test, str) or math.isnan(test.p_value) else test.p_value,
            None,
            None,
            False,
            failed,
            f"{probe}: {_words(test)}",
            *view,
        )
        for (view, probe), test, failed in zip(cells, tests, reached, strict=True)
    ]
    needed = math.ceil(len(cells) / level * (1 - 1e-9)) - 1
    have = len(_units(evidence))
    advice = []
    if have < max(needed, MIN_TWINS):
        advice.append(
            f"{max(needed, MIN_TWINS)} twin subjects instead of {have}: enough to FAIL by "
            f"{len(cells)} tests, never to PASS"
        )
    return TierJudgement(probes, [_before(evidence, policy), _negative(evidence, policy)], advice)


def _units(evidence: Evidence) -> list[list[int]]:
    """Return the positions of each twin subject's records, as many at most as the subject has.

    A record without a subject is its own.
    """
    part = evidence.plain["after"].get("holdout")
    if part is None:
        return []
    labels = evidence.subjects.get("holdout") or [None] * part.records
    by_subject: dict[object, list[int]] = {}
    for i, label in enumerate(labels):
        by_subject.setdefault((label, i if label is None else None), []).append(i)
    return [positions[: evidence.forget.records] for positions in by_subject.values()]


def _test(evidence: Evidence, scores: Scores, state: str, probe: str) -> RankTest | str:
    """Rank the subject in one state, or say why it cannot be."""
    try:
        scores_of_splits = split_scores(probe, scores, state)
        twins: FloatArray = np.array(
            [scores_of_splits.holdout[unit].mean() for unit in _units(evidence)]
        )
        return subject_rank_test(float(scores_of_splits.forget.mean()), twins)
    except DataError as error:
        return f"no statistic: {reason(error)}"


def _words(test: RankTest | str) -> str:
    if isinstance(test, str):
        return test
    if test.note:
        return test.note
    return (
        f"the subject is number {test.rank} of {test.subjects} by distance from the median, "
        f"p = {test.p_value:.3f}; a rank cannot show that nothing is left"
    )


def _p_values(evidence: Evidence, policy: Policy, state: str) -> list[tuple[float, str]]:
    tests = [(_test(evidence, evidence.plain, state, probe), probe) for probe in policy.tested]
    return [
        (test.p_value, probe)
        for test, probe in tests
        if not isinstance(test, str) and not math.isnan(test.p_value)
    ]


def _before(evidence: Evidence, policy: Policy) -> Gate:
    """G1: in the model before, some probe's p is ≤ α/(number of probes)."""
    if "before" not in evidence.plain:
        return Gate("G1", None, "no scores of the model before: pass --before to the audit")
    p_values = _p_values(evidence, policy, "before")
    if not p_values:
        return Gate("G1", None, "before: no rank test was possible")
    p, name = min(p_values)
    needed = policy.alpha / len(policy.tested)
    words = f"before: p = {p:.3f} by {name}; {needed:.3f} or less is needed"
    return Gate("G1", bool(p <= needed * (1 + 1e-9)), words)


def _negative(evidence: Evidence, policy: Policy) -> Gate:
    """G2: in what never saw the subject, it does not stand out by any probe."""
    states: Sequence[str] = evidence.references or [s for s in ("base",) if s in evidence.plain]
    p_values = [(p, state) for state in states for p, _ in _p_values(evidence, policy, state)]
    if not p_values:
        return Gate("G2", None, "no rank test was possible on what never saw the subject")
    p, state = min(p_values)
    words = f"{state}: the subject's rank has p = {p:.2f}; more than {STANDS_OUT:g} is needed"
    return Gate("G2", bool(p > STANDS_OUT), words)
