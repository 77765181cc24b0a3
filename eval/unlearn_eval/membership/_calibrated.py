"""What an audit has for the attacks in `CALIBRATED`, and how each of them uses it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from unlearn.errors import DataError
from unlearn_eval._arrays import FloatArray
from unlearn_eval.membership import deviation, lira, loss, quantile, rmia
from unlearn_eval.scores import TokenScores

__all__ = [
    "Compared",
    "Evidence",
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


class Compared(NamedTuple):
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
class Evidence:
    """One audited state and what it can be compared with.

    Attributes:
        target: the audited state.
        references: other states that saw neither side.
        base: the base model, if it was scored and is not the audited state.
        groups: one label an unseen record: its subject, else its id.
    """

    target: Sides
    references: Sequence[Sides] = ()
    base: Sides | None = None
    groups: Sequence[Hashable] = ()


def of_lira(evidence: Evidence) -> Compared | None:
    """LiRA offline, with every reference in the place of a model that did not see the record."""
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
    return Compared(member, nonmember, params, _note(count, "offline"))


def of_rmia(evidence: Evidence) -> Compared | None:
    """RMIA offline, with the holdout as the population."""
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
    return Compared(member, nonmember, params, note)


def of_deviation(evidence: Evidence) -> Compared | None:
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
    return Compared(member, nonmember, {"references": count}, note)


def of_quantile(evidence: Evidence) -> Compared | None:
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

    found = quantile.compare(
        loss.score(evidence.target.member),
        features(0),
        loss.score(evidence.target.nonmember),
        features(1),
        evidence.groups,
    )
    params = {"alpha": quantile.ALPHA, "folds": quantile.FOLDS, "features": names}
    return Compared(found.member, found.nonmember, params, "cross-fitted on the holdout")


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


def _note(references: int, rest: str) -> str:
    """Say how many references there were."""
    return f"from {references} {'reference' if references == 1 else 'references'}, {rest}"
