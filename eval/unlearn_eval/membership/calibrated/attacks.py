"""What an audit has for the attacks in `CALIBRATED`, and how each of them uses it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.arrays import BoolArray, FloatArray
from unlearn_eval.membership import loss
from unlearn_eval.membership.calibrated import deviation, lira, quantile, rmia
from unlearn_eval.membership.calibrated.spread import levels
from unlearn_eval.scores.token_scores import TokenScores

__all__ = [
    "CalibratedScores",
    "CalibrationData",
    "Sides",
    "of_deviation",
    "of_lira",
    "of_quantile",
    "of_rmia",
]


class Sides(NamedTuple):
    """Scores of the records in question and of unseen ones, under one model."""

    member: TokenScores
    nonmember: TokenScores


class CalibratedScores(NamedTuple):
    """An attack's scores of both sides; larger = more likely a member.

    Attributes:
        member: float64[R].
        nonmember: float64[N].
        params: what the attack was run with.
        note: what a reader must know of it.
    """

    member: FloatArray
    nonmember: FloatArray
    params: Mapping[str, Any]
    note: str


@dataclass(frozen=True)
class CalibrationData:
    """One audited state and what it can be compared with.

    Attributes:
        target: the audited state.
        references: other states that saw neither side.
        base: the base model, if it was scored and is not the audited state.
        groups: one label an unseen record: its subject, else its id.
        shadows: further models, which may have seen records of either side.
        member: for either side, bool [shadows, records]: which of them saw what.
    """

    target: Sides
    references: Sequence[Sides] = ()
    base: Sides | None = None
    groups: Sequence[Hashable] = ()
    shadows: Sequence[Sides] = ()
    member: tuple[BoolArray, BoolArray] | None = None


_FEWEST = 2
"""Fewest shadow models that saw a record, and that did not, for LiRA to be online."""


def of_lira(evidence: CalibrationData) -> CalibratedScores | None:
    """LiRA offline, with every reference in the place of a model that did not see the record.

    With shadow models online, where each record of both sides was seen by two or more and not seen
    by two or more.
    """
    if evidence.shadows:
        _check_finite("lira", [*evidence.references, *evidence.shadows])
        x, others, inside = _levelled(evidence, lira.confidence)
        fewest = min(int(min(i.sum(0).min(), (~i).sum(0).min())) for i in inside)
        online = fewest >= _FEWEST
        attack = lira.online if online else lira.offline
        both_sides = [attack(*side) for side in zip(x, others, inside, strict=True)]
        used = fewest if online else min(int((~i).sum(0).min()) for i in inside)
        kind = "record" if used >= lira.MIN_RECORD_VARIANCE else "global"
        form = "online" if online else "offline"
        params = _counts(evidence) | {"variance": kind, "form": form}
        return CalibratedScores(both_sides[0], both_sides[1], params, _shadow_note(evidence, form))
    if not evidence.references:
        return None
    _check_finite("lira", evidence.references)
    member, nonmember = (
        lira.offline(lira.confidence(target), [lira.confidence(r[i]) for r in evidence.references])
        for i, target in enumerate(evidence.target)
    )
    count = len(evidence.references)
    kind = "record" if count >= lira.MIN_RECORD_VARIANCE else "global"
    params = {"references": count, "variance": kind}
    return CalibratedScores(member, nonmember, params, _note(count, "offline"))


def of_rmia(evidence: CalibrationData) -> CalibratedScores | None:
    """RMIA offline, with the holdout as the population.

    Of shadow models each record is compared with those that did not see it.
    """
    if evidence.shadows:
        _check_finite("rmia", [*evidence.references, *evidence.shadows])
        x, others, inside = _levelled(evidence, loss.score)
        both_sides = [
            rmia.score(x[i], others[i], x[1], others[1], inside[i], population_member=inside[1])
            for i in (0, 1)
        ]
        params = _counts(evidence) | {"population": len(x[1]), "gamma": 1.0, "a": 1.0}
        note = _shadow_note(evidence, "offline, the holdout is the population")
        return CalibratedScores(both_sides[0], both_sides[1], params, note)
    if not evidence.references:
        return None
    _check_finite("rmia", evidence.references)
    population = loss.score(evidence.target.nonmember)
    of_population = [loss.score(r.nonmember) for r in evidence.references]
    member, nonmember = (
        rmia.score(
            loss.score(target),
            [loss.score(r[i]) for r in evidence.references],
            population,
            of_population,
        )
        for i, target in enumerate(evidence.target)
    )
    count = len(evidence.references)
    params = {"references": count, "population": len(population), "gamma": 1.0, "a": 1.0}
    note = _note(count, "offline, the holdout is the population")
    return CalibratedScores(member, nonmember, params, note)


def of_deviation(evidence: CalibrationData) -> CalibratedScores | None:
    """Deviation from the references' median of each record, else from the holdout's median."""
    x, y = (loss.score(side) for side in evidence.target)
    count = len(evidence.references)
    if count:
        _check_finite("deviation", evidence.references)
        member, nonmember = (
            deviation.score(scores, [loss.score(r[i]) for r in evidence.references])
            for i, scores in enumerate((x, y))
        )
        note = _note(count, "median for each record")
    elif len(y) > 1:
        member = deviation.score(x, np.full((1, len(x)), np.median(y)))
        nonmember = deviation.among(y)
        note = "no references: from the median of the holdout"
    else:
        return None
    return CalibratedScores(member, nonmember, {"references": count}, note)


def of_quantile(evidence: CalibrationData) -> CalibratedScores | None:
    """Quantile regression on length, compressed size, and the base's score where there is one."""
    _check_finite("quantile", [evidence.target])
    names = ["log_tokens"]
    if all(side.text_bytes is not None for side in evidence.target):
        names.append("log_bytes")
    if evidence.base is not None:
        names.append("base")

    def features(i: int) -> FloatArray:
        side = evidence.target[i]
        columns = [np.log(side.lengths)]
        if "log_bytes" in names:
            columns.append(np.log(np.maximum(np.asarray(side.text_bytes, dtype=np.float64), 1.0)))
        if evidence.base is not None:
            columns.append(loss.score(evidence.base[i]))
        return np.column_stack(columns)

    residuals = quantile.compare(
        loss.score(evidence.target.member),
        features(0),
        loss.score(evidence.target.nonmember),
        features(1),
        evidence.groups,
    )
    params = {"alpha": quantile.ALPHA, "folds": quantile.FOLDS, "features": names}
    return CalibratedScores(
        residuals.member, residuals.nonmember, params, "cross-fitted on the holdout"
    )


def _check_finite(attack: str, states: Sequence[Sides]) -> None:
    """Refuse states that rule a record out, naming it: no spread could be taken of its scores."""
    for sides in states:
        for matrix in sides:
            wrong = np.flatnonzero(~np.isfinite(loss.score(matrix)))
            if wrong.size:
                raise DataError(
                    f"attack {attack!r}: a model rules record "
                    f"{matrix.ids[wrong[0]]!r} out, which leaves it without a finite score; leave "
                    "the record out"
                )


def _levelled(
    evidence: CalibrationData, score: Callable[[TokenScores], FloatArray]
) -> tuple[list[FloatArray], list[FloatArray], list[BoolArray]]:
    """Return scores of both sides relative to each model's level, and who saw what.

    Shadow models were trained on less than the audited one, and are less likely about everything
    they never saw. Their scores compare only once that is taken off: what remains is how a record
    differs from unseen ones within the same model.

    Args:
        evidence: with shadow models.
        score: what a model says of each record, in nats.

    Returns:
        (target [R], others [K, R], member [K, R]), each for the members' and the other side;
        references come before shadow models.
    """
    assert evidence.member is not None
    models = [evidence.target, *evidence.references, *evidence.shadows]
    scores = [np.stack([score(model[i]) for model in models]) for i in (0, 1)]
    inside = []
    for side, known in zip(scores, evidence.member, strict=True):
        whole = np.zeros(side.shape, dtype=bool)
        whole[1 + len(evidence.references) :] = known
        inside.append(whole)
    level = levels(scores[1], inside[1])[:, None]
    scores = [side - level for side in scores]
    return [s[0] for s in scores], [s[1:] for s in scores], [i[1:] for i in inside]


def _counts(evidence: CalibrationData) -> dict[str, Any]:
    return {"references": len(evidence.references), "shadows": len(evidence.shadows)}


def _shadow_note(evidence: CalibrationData, rest: str) -> str:
    """Say what models there were, and how their scores were made comparable."""
    references = len(evidence.references)
    shadows = len(evidence.shadows)
    also = f"{references} {'reference' if references == 1 else 'references'} and "
    return (
        f"from {also if references else ''}{shadows} shadow "
        f"{'model' if shadows == 1 else 'models'}, {rest}; scores relative to each model's level "
        "on records it never saw"
    )


def _note(references: int, rest: str) -> str:
    """Say how many references there were."""
    return f"from {references} {'reference' if references == 1 else 'references'}, {rest}"
