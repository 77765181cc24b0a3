"""Tier A: adapters retrained without the records, each of them one observation."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from scipy import stats

from unlearn_eval.membership import loss
from unlearn_eval.statistics import holm
from unlearn_eval.verdict.evidence import Evidence, View
from unlearn_eval.verdict.policy import BACKDOOR, BACKDOOR_BEST, Policy
from unlearn_eval.verdict.result import Gate, ProbeResult, TierJudgement
from unlearn_eval.verdict.tiers.backdoor import backdoor_families
from unlearn_eval.verdict.tiers.independence import independent
from unlearn_eval.verdict.tiers.model_statistics import STATISTICS
from unlearn_eval.verdict.tiers.placing import ABOVE, Family, Place, placed
from unlearn_eval.verdict.tiers.position import (
    Limits,
    ReferencePosition,
    limits_of,
    position_among,
)
from unlearn_eval.verdict.tiers.unseen_groups import Group, unseen_groups

__all__ = ["KEPT", "decide_by_references"]

KEPT = "kept"
"""Name of the place that the kept records have among the references."""

_MORE = 100
"""Most references that are suggested."""


def _groups(evidence: Evidence) -> list[Group]:
    """Return the unseen people of like size, where the holdout has such."""
    part = evidence.plain["after"].get("holdout")
    labels = evidence.subjects.get("holdout") or [None] * (part.records if part else 0)
    return unseen_groups(evidence.forget_subjects, labels)


def decide_by_references(
    evidence: Evidence, policy: Policy, level: float | None = None
) -> TierJudgement:
    """Judge every probe in every audited form of the model against the references.

    With T the audited model's statistic, mean and s those of k references (s steadied by unseen
    people where these have subjects: `variance_prior`), M = max(margin · SD, floor) and the limits
    of `limits_of`:

    - passed iff |T − mean| is within `equivalent`. A model whose statistic truly lies M away passes
      with probability α at most, so one that is not equivalent in *some* probe passes all of them
      with probability α at most, and no correction is needed (intersection–union).
    - failed iff Holm's p over the probes is ≤ α′ and |T − mean| exceeds `equivalent` and the floor.
      A probe's p is that of the largest t over its forms (`MaxT`): bf16 and int8 copies are nearly
      one model. The kept records are one more test of the family, and
      a backdoor two (`backdoor_families`). All T of a deleted model being
      further references', some test fails with probability α′ at most.

    `deviation` and `worst_record` count upwards only: a model nearer to the references than they
    are to each other gives nothing away. The rules take statistics of models to be normal.

    Args:
        evidence: with `policy.min_references` references or more.
        policy: the policy.
        level: α′, error of FAIL; by default the policy's α at so many references.

    Returns:
        What was found.
    """
    alpha = policy.level(len(evidence.references))
    level = alpha if level is None else level
    views, groups = evidence.audited(policy), _groups(evidence)
    families = [
        Family(
            probe, views, [placed(evidence, view, probe, policy.floor, groups) for view in views]
        )
        for probe in policy.tested_by_references
    ]
    families += backdoor_families(evidence, policy, views)
    kept = _kept(evidence, policy)
    if kept is not None:
        families.append(Family(KEPT, [View()], [kept]))
    results: list[ProbeResult] = []
    advice: list[str] = []
    for family, failing, error in _tested(families, level):
        largest = family.largest if any(isinstance(p, Place) for p in family.places) else None
        for i, (view, place) in enumerate(zip(family.views, family.places, strict=True)):
            if isinstance(place, str) or largest is None:
                results.append(_without(family.probe, view, str(place)))
                continue
            limits = limits_of(place.position, policy.margin, alpha, largest.limit(error))
            result = _result(family.probe, view, place.position, limits, failing[i])
            results.append(result)
            if not (result.passed or result.failed):
                advice.append(_advice(family.probe, place.position, policy, error))
    control = _before(evidence, policy, groups)
    negative = Gate("G2", *independent(evidence, families))
    return TierJudgement(
        [result for result in results if result.probe != KEPT],
        [control, negative],
        [text for text in advice if text],
        _notes(evidence),
        next((result for result in results if result.probe == KEPT), None),
    )


def _tested(families: Sequence[Family], level: float) -> list[tuple[Family, Sequence[bool], float]]:
    """Return each family, which of its forms Holm rejects, and at what error it was tried."""
    p_values = [family.p_values for family in families]
    least = [min(values) for values in p_values]
    adjusted = holm(least) if least else np.empty(0)
    rejected = {i for i, p in enumerate(adjusted) if p <= level}
    # how many tests were undecided when each was tried, as Holm goes through them
    first = sorted(rejected, key=lambda i: least[i])
    remaining = {i: len(families) - rank for rank, i in enumerate(first)}
    tested: list[tuple[Family, Sequence[bool], float]] = []
    for i, family in enumerate(families):
        error = level / remaining.get(i, len(families) - len(rejected))
        tested.append((family, [i in rejected and p <= error for p in p_values[i]], error))
    return tested


def _result(
    probe: str, view: View, position: ReferencePosition, limits: Limits, rejected: bool
) -> ProbeResult:
    """Decide one probe in one form of the model."""
    away = abs(position.value - position.mean)
    below = probe in ABOVE and position.value < position.mean
    alike = position.sd == 0 and position.distance == 0
    passed = bool(below or alike or away <= limits.equivalent)
    failed = bool(rejected and not below and away > limits.equivalent and away > position.floor)
    half = limits.equivalent
    return ProbeResult(
        probe,
        _statistic(probe),
        position.value,
        -math.inf if probe in ABOVE else position.mean - half,
        position.mean + half,
        passed,
        failed,
        _words(probe, position, limits, passed),
        *view,
        position.mean,
        position.sd,
        position.k,
    )


_OTHERS = {
    KEPT: "kept records, mean log-probability",
    BACKDOOR: "target under the trigger, mean log-probability",
    BACKDOOR_BEST: "target under the trigger, log of the mean probability of a token",
}


def _statistic(probe: str) -> str:
    """Say what the value of a probe is."""
    return {**STATISTICS, **_OTHERS}.get(probe, "forget − holdout, means")


def _words(probe: str, position: ReferencePosition, limits: Limits, passed: bool) -> str:
    """Say where the model lies, in the references' SDs."""
    if position.sd == 0:
        equal = "as they do" if passed else "elsewhere: they do not say how much that matters"
        return f"{probe}: all {position.k} references have the same value, and the model {equal}"
    side = ""
    if probe in ABOVE:
        side = " above" if position.value >= position.mean else " below"
    sd = position.sd
    text = (
        f"{probe}: {position.distance:.2f} of the references' SDs"
        f"{side or ' from'} their mean; passes within {limits.equivalent / sd:.2f}, "
        f"fails beyond {limits.different / sd:.2f}"
    )
    if side:
        text += ", above only"
    return text


def _without(probe: str, view: View, why: str) -> ProbeResult:
    words = f"{probe}: no statistic: {why}"
    return ProbeResult(probe, _statistic(probe), None, None, None, False, False, words, *view)


def _kept(evidence: Evidence, policy: Policy) -> Place | None:
    """Return the place of the kept records' mean log-probability among full references."""
    scores = evidence.plain
    states = ["after", *evidence.references]
    if evidence.part_trained or not all("retain" in scores[state] for state in states):
        return None
    values = np.array([float(np.mean(loss.score(scores[state]["retain"]))) for state in states])
    position = position_among(float(values[0]), values[1:], None, policy.utility_margin)
    if math.isnan(position.mean) or position.sd == 0:  # nothing tells how much models vary
        return None
    return Place(position, values[1:] - values[1:].mean())


def _advice(probe: str, position: ReferencePosition, policy: Policy, error: float) -> str:
    """Say how many references would decide, if the model keeps its distance."""
    if not math.isfinite(position.distance):
        return f"{probe}: references from different seeds, so that they vary"
    k = _deciding(position, policy, error)
    if k is None:
        return f"{probe}: more than {_MORE} references"
    return (
        f"{probe}: {k} references instead of {position.k}, if the model stays "
        f"{position.distance:.2f} of their SDs away ({_side(position, k, policy, error)})"
    )


def _deciding(position: ReferencePosition, policy: Policy, error: float) -> int | None:
    """Return the least number of references that would decide; None if it is too large."""
    for _, stretch in groupby(range(position.k + 1, _MORE + 1), key=policy.level):
        # at one α the limits come nearer to each other, so that what is decided once stays so
        counts = list(stretch)
        first = bisect_left(counts, True, key=lambda k: bool(_side(position, k, policy, error)))
        if first < len(counts):
            return counts[first]
    return None


def _side(position: ReferencePosition, k: int, policy: Policy, error: float) -> str:
    """Return what a place would lead to among k references."""
    freedom = position.freedom - (position.k - 1) + k - 1
    t = float(stats.t.isf(error / 2, freedom))
    later = position._replace(k=k, freedom=freedom)
    limits = limits_of(later, policy.margin, policy.level(k), t)
    away = position.distance * position.sd
    if away <= limits.equivalent:
        return "PASS"
    return "FAIL" if away > limits.different else ""


def _before(evidence: Evidence, policy: Policy, groups: Sequence[Group]) -> Gate:
    """G1: by the strongest probe, the model before lies 2M from the references or more."""
    if "before" not in evidence.plain:
        return Gate("G1", None, "no scores of the model before: pass --before to the audit")
    strongest, needed, name = -1.0, 0.0, ""
    for probe in policy.tested_by_references:
        place = placed(evidence, View(), probe, policy.floor, groups, "before")
        if isinstance(place, str) or math.isnan(place.position.distance):
            continue
        where = place.position
        twice = 2 * max(policy.margin, where.floor / where.sd if where.sd else 0.0)
        if not name or where.distance / twice > strongest / needed:
            strongest, needed, name = where.distance, twice, probe
    if not name:
        return Gate("G1", None, "no probe could be computed for the model before")
    words = f"before: {strongest:.1f} of the references' SDs away by {name}"
    words += f"; {needed:.3g} are needed"
    if strongest < needed:
        words += ": the records are not detectable even before"
    return Gate("G1", bool(strongest >= needed), words)


def _notes(evidence: Evidence) -> list[str]:
    if not (part := len(evidence.part_trained)):
        return []
    return [
        f"{part} of {len(evidence.references)} references were trained on part of the kept "
        "records: levels of loss are not compared, and the margin is in SDs of models that differ "
        "in their data, too"
    ]
