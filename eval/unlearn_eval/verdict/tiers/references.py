"""Tier A: adapters retrained without the records, each of them one observation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership import ATTACKS, loss
from unlearn_eval.scores.measures import Scores
from unlearn_eval.statistics import PredictionLimits, holm, prediction_limits
from unlearn_eval.verdict.evidence import Evidence, MissingError, View, part_of, reason
from unlearn_eval.verdict.policy import DEVIATION, Policy
from unlearn_eval.verdict.result import Gate, ProbeResult, TierJudgement

__all__ = ["ReferencePosition", "decide_by_references", "position_among", "statistics"]

_MORE = 100
"""Most references that are suggested."""
_TIED = 1e-12
"""Values that differ by less than this part of their size differ by rounding only."""

_STATISTIC = {False: "forget − holdout, means", True: "forget − holdout, log mean deviation"}


class ReferencePosition(NamedTuple):
    """Where the audited model lies among k references.

    Attributes:
        value: its statistic, T.
        mean: of the references.
        sd: of the references.
        k: how many they are.
        distance: |T − mean|/sd, in their standard deviations; NaN if it is not defined.
        p_value: of T as a further reference, two-sided.
    """

    value: float
    mean: float
    sd: float
    k: int
    distance: float
    p_value: float


def statistics(
    probe: str,
    scores: Scores,
    states: Sequence[str],
    references: Sequence[str],
    *,
    level: bool = True,
) -> FloatArray:
    """Return one statistic a model: what sets the forgotten records apart from unseen ones in it.

    The mean score of the forget records minus that of the holdout *in the same model*: what moves
    all records of a model alike, such as how much it was trained, cancels.

    Of `deviation` it is log D_forget − log D_holdout, D the mean of |s_i − median of the other
    references|. A reference is compared with the k − 1 others, and any other model with each choice
    of k − 1 of the k, averaged: so its D has the same expectation as a reference's, whereas the
    median of all k would lie nearer to the truth and make it look closer. The logarithm, because D
    of a shift common to all records is a folded normal value, whose long upper tail takes the t
    limits of raw differences to an error of 9 % (5 references, simulated); logarithms have 5.

    References that were trained on fewer records have another level of loss, on all records that
    they never saw alike (measured on TOFU: 6.71 ± .16 nats after half of the data, 6.46 ± .13 after
    all of it, with the same forget − holdout). It cancels in differences of means, but not in
    |s_i − median|: without `level`, each model's mean over the holdout is taken off its scores
    before they are compared.

    Args:
        probe: a probe's name.
        scores: by state and split.
        states: whose statistics.
        references: the states that never saw the records.
        level: whether levels of loss compare between models; only `deviation` depends on it.

    Returns:
        float64[states]; NaN or infinite where a score is.

    Raises:
        DataError: if a state was not scored on the holdout, or the attack cannot score it.
    """
    if probe == DEVIATION:
        return _deviations(scores, states, references, level)
    base = scores.get("base", {})
    if ATTACKS[probe].needs_base and not base:
        raise MissingError("it compares with the base, which was not scored")

    def mean(state: str, split: str) -> float:
        # an infinite score of either sign is kept: its sum is infinite or undefined
        with np.errstate(invalid="ignore"):
            record_scores = ATTACKS[probe].score(part_of(scores, state, split), base.get(split))
            return float(np.mean(record_scores))

    with np.errstate(invalid="ignore"):
        gaps = [np.subtract(mean(state, "forget"), mean(state, "holdout")) for state in states]
    return np.array(gaps, dtype=np.float64)


def _deviations(
    scores: Scores, states: Sequence[str], references: Sequence[str], level: bool
) -> FloatArray:
    """Return log D_forget − log D_holdout of each state; D is the mean of `deviation.score`."""
    if len(references) < 3:
        raise MissingError("3 references are needed: of two, each deviates as much from the other")

    def scored(state: str, split: str) -> FloatArray:
        values: FloatArray = loss.score(part_of(scores, state, split))
        with np.errstate(invalid="ignore"):  # an infinite score leaves none of its model finite
            return values if level else values - np.mean(loss.score(scores[state]["holdout"]))

    log_deviations = np.zeros(len(states))
    for split, sign in (("forget", 1), ("holdout", -1)):
        values = np.stack([scored(state, split) for state in references])
        if not np.isfinite(values).all():
            raise DataError("a reference gives a record no finite score")
        # as `deviation.score` has it, with the median of each choice of k − 1 found once
        everyone = range(len(references))
        medians = np.stack([np.median(np.delete(values, j, axis=0), axis=0) for j in everyone])
        for i, state in enumerate(states):
            target = scored(state, split)
            left_out = [j for j, name in enumerate(references) if name == state]
            mean = np.mean(np.abs(target - medians[left_out or list(everyone)]))
            with np.errstate(divide="ignore", invalid="ignore"):
                log_deviations[i] += sign * np.log(mean)
    return log_deviations


def position_among(value: float, references: FloatArray) -> ReferencePosition:
    """Compare a statistic with that of k references.

    p = 2 P(t_{k−1} ≥ |T − mean|/(s √(1 + 1/k))). Limits: an infinite T among finite references has
    distance ∞ and p = 0. Where all references agree (s = 0), nothing tells how much they vary: T
    has distance 0 if it agrees with them, else none (NaN), and p = 1 either way, so that it can be
    shown equal but never shown different. (Calling any difference a FAIL would be wrong with
    probability k^k/(k + 1)^{k+1}, 6.7 % at k = 5, for a statistic that takes another value once in
    k + 1 times.)

    Args:
        value: T.
        references: [k], k ≥ 2.

    Returns:
        Its place; NaN throughout where a reference's statistic is infinite or NaN, or T is NaN.
    """
    k = len(references)
    if math.isnan(value) or not np.isfinite(references).all():
        return ReferencePosition(value, math.nan, math.nan, k, math.nan, math.nan)
    mean, sd = float(np.mean(references)), float(np.std(references, ddof=1))
    size = float(np.abs(references).max())
    if float(np.ptp(references)) <= _TIED * size:
        equal = abs(value - mean) <= _TIED * size
        return ReferencePosition(value, mean, 0.0, k, 0.0 if equal else math.nan, 1.0)
    distance = abs(value - mean) / sd
    p = 2 * float(stats.t.sf(distance / math.sqrt(1 + 1 / k), k - 1))
    return ReferencePosition(value, mean, sd, k, distance, p)


def decide_by_references(
    evidence: Evidence, policy: Policy, level: float | None = None
) -> TierJudgement:
    """Judge every probe in every audited form of the model against the references.

    With T the audited model's statistic, mean and s those of k references, and
    (c, limit) = `prediction_limits(k, margin, α)`:

    - passed iff |T − mean| ≤ c·s. A model whose statistic truly lies the margin away passes with
      probability α at most, so one that is not equivalent in *some* probe passes all of them with
      probability α at most, and no correction is needed (intersection–union).
    - failed iff Holm's p over all probes and forms is ≤ α′ and |T − mean| > c·s. All T of a deleted
      model being further references', some probe fails with probability α′ at most.

    `deviation` fails upwards only: a model nearer to the median of references than they are
    themselves gives nothing away. The rules take statistics of models to be normal.

    Args:
        evidence: with `policy.min_references` references or more.
        policy: the policy.
        level: α′, error of FAIL; by default the policy's α.

    Returns:
        What was found.
    """
    level = policy.alpha if level is None else level
    references = evidence.references
    cells = [(view, probe) for view in evidence.audited(policy) for probe in policy.tested]
    places: list[ReferencePosition | str] = [
        _place(evidence, view, probe, references) for view, probe in cells
    ]
    known = [i for i, position in enumerate(places) if isinstance(position, ReferencePosition)]
    p_values = [_p_value(cells[i][1], places[i]) for i in known]
    # what has no statistic still counts as a test: it must not make the others easier to fail
    adjusted = holm([*p_values, *[1.0] * (len(cells) - len(known))]) if cells else np.empty(0)
    failing = {i for i, p in zip(known, adjusted, strict=False) if p <= level}
    # how many tests were undecided when each was tried, as Holm goes through them
    first = sorted(failing, key=lambda i: p_values[known.index(i)])
    remaining = {i: len(cells) - rank for rank, i in enumerate(first)}
    rest = len(cells) - len(failing)
    probes, advice = [], []
    for i, ((view, probe), position) in enumerate(zip(cells, places, strict=True)):
        result = _result(
            view, probe, position, policy, i in failing, level / remaining.get(i, rest)
        )
        probes.append(result)
        if isinstance(position, ReferencePosition) and not (result.passed or result.failed):
            advice.append(_advice(probe, position, policy, level / remaining.get(i, rest)))
    control = _before(evidence, policy, references)
    negative = Gate("G2", None, "not needed: references are the comparison")
    notes = []
    if part := len(evidence.part_trained):
        notes.append(
            f"{part} of {len(references)} references were trained on part of the kept records: "
            "levels of loss are not compared, and the margin is in SDs of models that differ in "
            "their data, too"
        )
    return TierJudgement(probes, [control, negative], [text for text in advice if text], notes)


def _place(
    evidence: Evidence, view: View, probe: str, references: Sequence[str]
) -> ReferencePosition | str:
    """Return the place of the audited model, or why there is none."""
    try:
        level = not evidence.part_trained
        states = ["after", *references]
        values = statistics(probe, evidence.scores(view), states, references, level=level)
    except DataError as error:
        return reason(error)
    where = position_among(float(values[0]), values[1:])
    return "a score is infinite" if math.isnan(where.mean) else where


def _p_value(probe: str, position: ReferencePosition | str) -> float:
    """Return p, of deviation against larger values only."""
    assert isinstance(position, ReferencePosition)
    below = probe == DEVIATION and position.value < position.mean
    return 1.0 if below else position.p_value


def _result(
    view: View,
    probe: str,
    position: ReferencePosition | str,
    policy: Policy,
    rejected: bool,
    error: float,
) -> ProbeResult:
    """Decide one probe in one form of the model."""
    statistic = _STATISTIC[probe == DEVIATION]
    if isinstance(position, str):
        words = f"{probe}: no statistic: {position}"
        return ProbeResult(probe, statistic, None, None, None, False, False, words, *view)
    limits = prediction_limits(position.k, policy.margin, policy.alpha)
    beyond = max(limits.equivalent, _limit(position.k, error))
    passed = position.distance <= limits.equivalent
    failed = bool(rejected and position.distance > limits.equivalent)
    if position.sd == 0:
        equal = (
            "as they do" if passed else "which is elsewhere: they do not say how much it matters"
        )
        words = f"{probe}: all {position.k} references have the same value, and the model {equal}"
    else:
        words = (
            f"{probe}: {position.distance:.2f} of the references' SDs from their mean; passes "
            f"within {limits.equivalent:.2f}, fails beyond {beyond:.2f}"
        )
    half = limits.equivalent * position.sd
    return ProbeResult(
        probe,
        statistic,
        position.value,
        position.mean - half,
        position.mean + half,
        passed,
        failed,
        words,
        *view,
        position.mean,
        position.sd,
        position.k,
    )


def _limit(k: int, error: float) -> float:
    """Return the limit of |T − mean|/s for one probe, at a two-sided error."""
    return float(stats.t.isf(error / 2, k - 1)) * math.sqrt(1 + 1 / k)


def _advice(probe: str, position: ReferencePosition, policy: Policy, error: float) -> str:
    """Say how many references would decide, if the model keeps its distance."""
    if not math.isfinite(position.distance):
        return f"{probe}: references from different seeds, so that they vary"
    for k in range(position.k + 1, _MORE + 1):
        limits: PredictionLimits = prediction_limits(k, policy.margin, policy.alpha)
        inside = position.distance <= limits.equivalent
        if inside or position.distance > max(limits.equivalent, _limit(k, error)):
            side = "PASS" if inside else "FAIL"
            return (
                f"{probe}: {k} references instead of {position.k}, if the model stays "
                f"{position.distance:.2f} of their SDs away ({side})"
            )
    return f"{probe}: more than {_MORE} references"


def _before(evidence: Evidence, policy: Policy, references: Sequence[str]) -> Gate:
    """G1: on the strongest probe, the model before lies at least 2m SDs from the references."""
    if "before" not in evidence.plain:
        return Gate("G1", None, "no scores of the model before: pass --before to the audit")
    strongest, name = -1.0, ""
    for probe in policy.tested:
        try:
            states, level = ["before", *references], not evidence.part_trained
            values = statistics(probe, evidence.plain, states, references, level=level)
        except DataError:
            continue
        distance = position_among(float(values[0]), values[1:]).distance
        if distance > strongest:
            strongest, name = distance, probe
    if not name:
        return Gate("G1", None, "no probe could be computed for the model before")
    needed = 2 * policy.margin
    words = f"before: {strongest:.1f} of the references' SDs away by {name}; {needed:g} are needed"
    if strongest < needed:
        words += ": the records are not detectable even before"
    return Gate("G1", bool(strongest >= needed), words)
