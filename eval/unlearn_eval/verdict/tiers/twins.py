"""Tier C: records that were never trained on, in the audited model itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership import ATTACKS, loss
from unlearn_eval.membership.calibrated import deviation
from unlearn_eval.results.rows import cluster_labels
from unlearn_eval.scores.measures import Scores
from unlearn_eval.statistics import (
    MIN_CLUSTERS,
    Interval,
    auc_interval,
    holm_intervals,
    records_for_equivalence,
    twin_theta,
)
from unlearn_eval.statistics.common import no_interval
from unlearn_eval.verdict.evidence import Evidence, MissingError, View, part_of, reason
from unlearn_eval.verdict.policy import DEVIATION, Policy
from unlearn_eval.verdict.result import Gate, ProbeResult, TierJudgement

__all__ = ["SplitScores", "decide_by_twins", "split_scores", "theta"]

_STATISTIC = "θ = P(forgotten > unseen)"

_VERDICT = {"delong", "matched", "cluster"}
"""Intervals that hold for further subjects; "conditional" ones do not decide."""


class SplitScores(NamedTuple):
    """Scores of one probe in one state; larger = more likely a member."""

    forget: FloatArray
    holdout: FloatArray


def split_scores(probe: str, scores: Scores, state: str) -> SplitScores:
    """Score the forgotten and the unseen records of one state by one probe.

    `deviation` is |score − median of the holdout|, of a holdout record from the median of the
    others.

    Raises DataError if something is missing that the probe needs, or a score is infinite where
    `deviation` needs a finite one.
    """
    forget, holdout = (part_of(scores, state, split) for split in ("forget", "holdout"))
    if probe == DEVIATION:
        x, y = loss.score(forget), loss.score(holdout)
        among = deviation.among(y)
        return SplitScores(deviation.score(x, np.full((1, len(x)), np.median(y))), among)
    base = scores.get("base", {})
    attack = ATTACKS[probe]
    if attack.needs_base and state == "base":
        raise MissingError("it compares with the base, and tells nothing of the base itself")
    if attack.needs_base and not base:
        raise MissingError("it compares with the base, which was not scored")
    return SplitScores(
        attack.score(forget, base.get("forget")), attack.score(holdout, base.get("holdout"))
    )


def theta(evidence: Evidence, scores: SplitScores, level: float) -> Interval:
    """Return θ = P(forgotten record scores above a never-trained one) with an interval.

    Each record against its own twins where they are known, else all against all. Subjects are
    clusters. Of one record, or where some records have subjects but too few, no interval holds.

    Args:
        evidence: twins and subjects.
        scores: of one probe.
        level: two-sided.

    Returns:
        The interval; its method says whether it may decide.
    """
    ours = cluster_labels(evidence.forget_subjects)
    if evidence.one_subject:
        n = len(scores.forget)
        return no_interval(math.nan, n, level, 1, "one subject is one observation")
    if evidence.twins is not None:
        twins = scores.holdout[evidence.twins.positions]
        return twin_theta(scores.forget, twins, level, ours)
    others = cluster_labels(evidence.subjects.get("holdout"))
    return auc_interval(scores.forget, scores.holdout, level, ours, others)


def decide_by_twins(
    evidence: Evidence, policy: Policy, level: float | None = None
) -> TierJudgement:
    """Judge every probe in every audited form of the model by θ.

    - passed iff the interval at level 1 − 2α lies within ½ ± δ: two one-sided tests at α.
    - failed iff Holm's interval (at level 1 − α′) lies wholly above ½ + δ or wholly below ½ − δ.

    G1: the model before is told apart, by the strongest probe: some lower limit exceeds ½ + δ, each
    at error α/(number of probes). G2: on every reference, else on the base, the whole interval of
    every probe lies within ½ ± δ: otherwise forgotten records differ from their twins in more than
    that they were forgotten, and neither decision is possible.

    Args:
        evidence: several subjects, or records without subjects.
        policy: the policy.
        level: α′, error of FAIL; by default the policy's α.

    Returns:
        What was found.
    """
    level = policy.alpha if level is None else level
    low, high = 0.5 - policy.delta, 0.5 + policy.delta
    cells, makers, broken = [], [], {}
    for view in evidence.audited(policy):
        for probe in policy.tested:
            try:
                both = split_scores(probe, evidence.scores(view), "after")
                makers.append(partial(theta, evidence, both))
                cells.append((view, probe))
            except DataError as error:
                broken[view, probe] = reason(error)
    intervals = holm_intervals(makers, low, high, 1 - level) if makers else []
    probes = [
        _result(view, probe, make(1 - 2 * policy.alpha), adjusted, low, high)
        for (view, probe), make, adjusted in zip(cells, makers, intervals, strict=True)
    ]
    probes += [_refused(view, probe, reason) for (view, probe), reason in broken.items()]
    gates = [_before(evidence, policy), _negative(evidence, policy)]
    notes = []
    if evidence.subject_count is None:
        notes.append("no record has a subject: all were taken to be independent")
    return TierJudgement(probes, gates, _advice(evidence, policy, probes), notes)


def _result(
    view: View, probe: str, narrow: Interval, adjusted: Interval, low: float, high: float
) -> ProbeResult:
    """Decide one probe in one form of the model."""
    usable = narrow.method in _VERDICT
    passed = bool(usable and low <= narrow.low and narrow.high <= high)
    failed = bool(usable and (adjusted.low > high or adjusted.high < low))
    if not usable:
        words = f"{probe}: θ = {narrow.value:.2f} without an interval that decides: {narrow.note}"
        if math.isnan(narrow.value):
            words = f"{probe}: {narrow.note}"
    else:
        words = (
            f"{probe}: θ = {_shown(narrow)}; passes within [{low:.2f}, {high:.2f}], fails if "
            f"[{adjusted.low:.2f}, {adjusted.high:.2f}] lies outside"
        )
    low_, high_ = (narrow.low, narrow.high) if usable else (None, None)
    value = None if math.isnan(narrow.value) else narrow.value
    return ProbeResult(probe, _STATISTIC, value, low_, high_, passed, failed, words, *view)


def _refused(view: View, probe: str, reason: str) -> ProbeResult:
    words = f"{probe}: no statistic: {reason}"
    return ProbeResult(probe, _STATISTIC, None, None, None, False, False, words, *view)


def _intervals(
    evidence: Evidence, policy: Policy, state: str, level: float
) -> list[tuple[str, Interval]]:
    """Return θ of every probe in one state as it is, where it can be computed."""
    intervals = []
    for probe in policy.tested:
        try:
            intervals.append(
                (probe, theta(evidence, split_scores(probe, evidence.plain, state), level))
            )
        except DataError:
            continue
    return intervals


def _before(evidence: Evidence, policy: Policy) -> Gate:
    """G1: some probe's lower limit in the model before exceeds ½ + δ."""
    if "before" not in evidence.plain:
        return Gate("G1", None, "no scores of the model before: pass --before to the audit")
    level = 1 - 2 * policy.alpha / len(policy.tested)
    intervals = _intervals(evidence, policy, "before", level)
    usable = [(i.low, name) for name, i in intervals if i.method in _VERDICT]
    if not usable:
        return Gate("G1", None, "before: no interval that decides")
    best, name = max(usable)
    needed = 0.5 + policy.delta
    words = f"before: θ is at least {best:.2f} by {name}; more than {needed:.2f} is needed"
    if best <= needed:
        words += ": the records are not detectable even before"
    return Gate("G1", bool(best > needed), words)


def _negative(evidence: Evidence, policy: Policy) -> Gate:
    """G2: on what never saw the records, every interval lies within ½ ± δ."""
    states = evidence.references or [s for s in ("base",) if s in evidence.plain]
    if not states:
        return Gate("G2", None, "neither a reference nor the base to compare the twins on")
    low, high = 0.5 - policy.delta, 0.5 + policy.delta
    worst, where = 0.0, ""
    for state in states:
        for probe, interval in _intervals(evidence, policy, state, 1 - 2 * policy.alpha):
            far = max(low - interval.low, interval.high - high)
            if interval.method not in _VERDICT:
                return Gate("G2", None, f"{state}: no interval that decides: {interval.note}")
            if not where or far > worst:
                worst, where = far, f"{state}: θ of {probe} is {_shown(interval)}"
    if not where:
        return Gate("G2", None, "no probe could be computed for what never saw the records")
    words = f"{where}; all of it must lie within [{low:.2f}, {high:.2f}]"
    if worst > 0:
        words += ": the twins are not shown to be comparable"
    return Gate("G2", bool(worst <= 0), words)


def _shown(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _advice(evidence: Evidence, policy: Policy, probes: Sequence[ProbeResult]) -> list[str]:
    """Say what would decide: how many records, or references."""
    if all(result.passed or result.failed for result in probes):
        return []
    n, subjects = evidence.forget.records, evidence.subject_count
    clustered = subjects is not None and subjects < n
    text = []
    if clustered and subjects is not None and subjects < MIN_CLUSTERS:
        text.append(
            f"{MIN_CLUSTERS} subjects on each side instead of {subjects}, for an interval that "
            "holds for further ones"
        )
    else:
        holdout = evidence.plain["after"].get("holdout")
        ratio = max(1, round(holdout.records / n)) if holdout else 1
        if evidence.twins is not None:
            ratio = evidence.twins.positions.shape[1]
        needed = records_for_equivalence(policy.delta, ratio, policy.alpha)
        unit = "subjects" if clustered else "records"
        if needed > (subjects if clustered and subjects else n):
            text.append(
                f"{needed} independent {unit} with {ratio} twin(s) each, to show θ within ½ ± "
                f"{policy.delta:g}"
            )
    return text
