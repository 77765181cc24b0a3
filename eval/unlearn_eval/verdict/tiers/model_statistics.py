"""What sets some records apart from unseen ones in a model: one number a model.

Every function here takes scores of the judged model and of k references that never saw the records,
and returns a function of two sets of records, the ones in question and unseen ones. So the same
statistic can be taken of unseen people, which shows how much it varies from one reference to the
next when nobody was deleted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.membership import ATTACKS, loss
from unlearn_eval.scores.measures import Scores
from unlearn_eval.statistics import moderated, variance_prior
from unlearn_eval.verdict.evidence import MissingError, part_of
from unlearn_eval.verdict.policy import DEVIATION, WORST

__all__ = [
    "STATISTICS",
    "ModelStatistic",
    "deviation",
    "gap",
    "model_statistic",
    "worst",
]

STATISTICS = {
    DEVIATION: "forget − holdout, log mean deviation",
    WORST: "worst forgotten record, asinh of its SDs above the references",
}
"""What the value of a probe is, where it is not `forget − holdout, means`."""

ModelStatistic = Callable[[IntArray, IntArray], FloatArray]
"""(records, unseen records) → float64[1 + k]: of the judged model, then of each reference."""

_GAMES = math.sqrt(4 * math.pi)
_SINGLE = 2.0
"""The floor of a single record ÷ that of a mean: training by another recipe moved the mean of
unseen people's records by .03 nats and single ones by .10 (SmolLM2-135M, and other people's records
than those of the tables in the docs)."""


class Probe(NamedTuple):
    """A probe, ready to be taken of any records.

    Attributes:
        statistic: a function of records.
        floor: (records, statistics of the references) → the policy's floor in the statistic's
            units.
        records: how many are forgotten; they come first, then those of the holdout.
        unseen: how many the holdout has.
    """

    statistic: ModelStatistic
    floor: Callable[[IntArray, FloatArray], float]
    records: int
    unseen: int

    @property
    def forget(self) -> IntArray:
        """Where the forgotten records are."""
        return np.arange(self.records)

    @property
    def holdout(self) -> IntArray:
        """Where the unseen records are."""
        return np.arange(self.records, self.records + self.unseen)


def gap(values: FloatArray) -> ModelStatistic:
    """Return the mean score of the records minus that of unseen ones *in the same model*.

    What moves all records of a model alike, such as how much it was trained, cancels.

    Args:
        values: float64[1 + k, records], larger = more likely a member; the judged model first.

    Returns:
        The statistic; infinite or NaN where a score is.
    """

    def statistic(records: IntArray, unseen: IntArray) -> FloatArray:
        with np.errstate(invalid="ignore"):
            means: FloatArray = values[:, records].mean(axis=1) - values[:, unseen].mean(axis=1)
        return means

    return statistic


def deviation(values: FloatArray) -> ModelStatistic:
    """Return log D − log D_unseen, D the mean of |s_i − median of the other references|.

    A reference is compared with the k − 1 others, and the judged model with each choice of k − 1 of
    the k, averaged: so its D has the same expectation as a reference's, whereas the median of all k
    would lie nearer to the truth and make it look closer. The logarithm, because D of a shift
    common to all records is a folded normal value, whose long upper tail takes the t limits of raw
    differences to an error of 9 % (5 references, simulated); logarithms have 5.

    Args:
        values: float64[1 + k, records], mean log-probabilities; references finite, k ≥ 3.

    Returns:
        The statistic.
    """
    medians = _medians(values[1:])
    distances = np.vstack(
        [np.abs(values[0] - medians).mean(axis=0)[None], np.abs(values[1:] - medians)]
    )

    def statistic(records: IntArray, unseen: IntArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs: FloatArray = np.log(distances[:, records].mean(axis=1))
            logs -= np.log(distances[:, unseen].mean(axis=1))
        return logs

    return statistic


def worst(values: FloatArray, unseen: IntArray, sds: FloatArray | None = None) -> ModelStatistic:
    """Return asinh of W = max_i (s_i − median of the other references)/σ_i.

    Means hide one record that was left among many; the largest does not. s is centred on the mean
    over the unseen records of the same model; σ_i is the record's SD over the other references,
    shrunken to that of all records by `variance_prior`: σ_i² ← (d₀σ₀² + νσ_i²)/(d₀ + ν). As in
    `deviation`, a reference is compared with the k − 1 others and the judged model with each choice
    of k − 1. asinh is linear about 0, where a single record that lies below the references belongs,
    and a logarithm far above them.

    Args:
        values: float64[1 + k, records], mean log-probabilities; references finite, k ≥ 3.
        unseen: which records no model saw.
        sds: float64[k, records], σ_i without each of the references, if known.

    Returns:
        The statistic; it does not depend on the unseen records it is given.
    """
    with np.errstate(invalid="ignore"):
        centred = values - values[:, unseen].mean(axis=1, keepdims=True)
    references = centred[1:]
    medians, sds = _medians(references), _sds(references) if sds is None else sds
    with np.errstate(divide="ignore", invalid="ignore"):
        judged = (centred[0] - medians) / sds
        others = (references - medians) / sds

    def statistic(records: IntArray, unseen: IntArray) -> FloatArray:
        del unseen
        first = np.arcsinh(judged[:, records].max(axis=1)).mean()
        values: FloatArray = np.append(first, np.arcsinh(others[:, records].max(axis=1)))
        return values

    return statistic


def model_statistic(
    probe: str,
    scores: Scores,
    judged: str,
    references: Sequence[str],
    *,
    floor: float = 0.0,
    level: bool = True,
) -> Probe:
    """Prepare one probe of one model beside references.

    References that were trained on fewer records have another level of loss, on all records that
    they never saw alike (measured on TOFU: 6.71 ± .16 nats after half of the data, 6.46 ± .13 after
    all of it, with the same forget − holdout). It cancels in differences of means, but not in
    |s_i − median|: without `level`, each model's mean over the holdout is taken off its scores
    before they are compared.

    A floor of f games in a hundred (AUC) is f·√(4π)·SD in the probe's own units, with SD of unseen
    records within a reference: a shift of both normal distributions apart by d moves the AUC by
    d/(SD√(4π)) at most. Of `deviation` it is log(1 + F/D) for F in nats and D of the references; of
    `worst_record` how much asinh W grows when the worst record lies 2F higher.

    Args:
        probe: a probe's name.
        scores: by state and split.
        judged: the state in question.
        references: the states that never saw the records.
        floor: least difference that matters, in AUC.
        level: whether levels of loss compare between models; only `deviation` depends on it.

    Returns:
        The probe.

    Raises:
        DataError: if a state was not scored on the holdout, the attack cannot score it, or a
            reference gives a record no finite score where the statistic needs one.
    """
    base = scores.get("base", {})
    attack = loss.score if probe in STATISTICS else ATTACKS[probe].score
    if probe not in STATISTICS and ATTACKS[probe].needs_base and not base:
        raise MissingError("it compares with the base, which was not scored")
    if probe in STATISTICS and len(references) < 3:
        raise MissingError("3 references are needed: of two, each deviates as much from the other")
    parts = [
        [attack(part_of(scores, state, split), base.get(split)) for split in ("forget", "holdout")]
        for state in (judged, *references)
    ]
    values = np.stack([np.concatenate(pair) for pair in parts]).astype(np.float64)
    records, unseen = len(parts[0][0]), len(parts[0][1])
    holdout = np.arange(records, records + unseen)
    if probe in STATISTICS and not np.isfinite(values[1:]).all():
        raise DataError("a reference gives a record no finite score")
    with np.errstate(invalid="ignore"):
        spread = float(np.mean(np.std(values[1:, holdout], axis=1))) if unseen > 1 else 0.0
        if probe == DEVIATION and not level:
            values = values - values[:, holdout].mean(axis=1, keepdims=True)
    nats = floor * _GAMES * spread
    if probe == DEVIATION:
        return Probe(deviation(values), _deviation_floor(values, nats), records, unseen)
    if probe == WORST:
        centred = values[1:] - values[1:, holdout].mean(axis=1, keepdims=True)
        sds = _sds(centred)
        floor_of = _worst_floor(sds, _SINGLE * nats)
        return Probe(worst(values, holdout, sds), floor_of, records, unseen)
    return Probe(gap(values), lambda _, __: nats, records, unseen)


def _deviation_floor(values: FloatArray, nats: float) -> Callable[[IntArray, FloatArray], float]:
    """Return how much log D grows when every record deviates by some nats more."""
    distances = np.abs(values[1:] - _medians(values[1:]))

    def floor(records: IntArray, _: FloatArray) -> float:
        usual = float(distances[:, records].mean())
        return math.log1p(nats / usual) if usual > 0 else math.inf

    return floor


def _worst_floor(sds: FloatArray, nats: float) -> Callable[[IntArray, FloatArray], float]:
    """Return how much asinh W grows when the worst record lies some nats higher."""

    def floor(records: IntArray, references: FloatArray) -> float:
        usual, sd = float(np.mean(references)), float(np.median(sds[:, records]))
        return math.asinh(math.sinh(usual) + nats / sd) - usual if sd > 0 else math.inf

    return floor


def _medians(references: FloatArray) -> FloatArray:
    """Return float64[k, records]: the median of all references but one, for each of them."""
    return np.stack([np.median(others, axis=0) for others in _left_out(references)])


def _sds(references: FloatArray) -> FloatArray:
    """Return float64[k, records]: the shrunken SD over all references but one."""
    freedom = len(references) - 2
    variances = [np.var(others, axis=0, ddof=1) for others in _left_out(references)]
    shrunken = [moderated(v, freedom, variance_prior(v, freedom)) for v in variances]
    return np.sqrt(np.stack(shrunken))


def _left_out(references: FloatArray) -> list[FloatArray]:
    return [np.delete(references, j, axis=0) for j in range(len(references))]
