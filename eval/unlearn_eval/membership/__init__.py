"""Membership inference: was a record in the training data? One attack a file, one line here.

Every attack gives one number a record; larger = more likely a member. Those in `ATTACKS` need the
audited model's scores, and at most its base's; those in `CALIBRATED` also need other models that
never saw the record, or other records that the model never saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership import ez, loss, min_k, min_k_plus_plus, reference, zlib
from unlearn_eval.membership.calibrated import attacks as _calibrated
from unlearn_eval.membership.calibrated import deviation, lira, quantile, rmia, u_lira
from unlearn_eval.membership.calibrated.attacks import CalibratedScores, CalibrationData
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["ATTACKS", "CALIBRATED", "Attack", "Calibrated", "CalibrationData"]


class _Score(Protocol):
    """An attack as a function; keyword options beyond these have defaults."""

    def __call__(self, target: TokenScores, base: TokenScores | None = None) -> FloatArray: ...


class _AttackModule(Protocol):
    """What every attack's file defines."""

    NEEDS_BASE: bool
    PAPER: str
    SUMMARY: str

    @property
    def score(self) -> _Score: ...


@dataclass(frozen=True, slots=True)
class Attack:
    """A membership attack and what it takes.

    Attributes:
        name: as on the command line; its file has the same name.
        score: the function, `(target, base=None)` to one number a record.
        needs_base: whether `base` must be given.
        paper: where it comes from.
        summary: one line for listings.
    """

    name: str
    score: _Score
    needs_base: bool
    paper: str
    summary: str


def _attack(name: str, module: _AttackModule) -> Attack:
    """Describe the attack that a module defines."""
    return Attack(name, module.score, module.NEEDS_BASE, module.PAPER, module.SUMMARY)


ATTACKS: dict[str, Attack] = {
    "loss": _attack("loss", loss),
    "reference": _attack("reference", reference),
    "zlib": _attack("zlib", zlib),
    "min_k": _attack("min_k", min_k),
    "min_k_plus_plus": _attack("min_k_plus_plus", min_k_plus_plus),
    "ez": _attack("ez", ez),
}


class _CalibratedAttackModule(Protocol):
    """What the file of every attack in `CALIBRATED` defines, beside its functions of arrays."""

    PAPER: str
    SUMMARY: str


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A membership attack that compares with other models or with unseen records.

    Attributes:
        name: as in an audit; its file has the same name.
        compare: scores both sides of an audit, or says (None) that it has not what the attack
            needs; None for an attack that needs models which no audit opens.
        needs: what it needs, in words.
        paper: where it comes from.
        summary: one line for listings.
    """

    name: str
    compare: Callable[[CalibrationData], CalibratedScores | None] | None
    needs: str
    paper: str
    summary: str


def _calibrated_attack(
    name: str,
    module: _CalibratedAttackModule,
    needs: str,
    compare: Callable[[CalibrationData], CalibratedScores | None] | None = None,
) -> Calibrated:
    """Describe the calibrated attack that a module defines."""
    return Calibrated(name, compare, needs, module.PAPER, module.SUMMARY)


CALIBRATED: dict[str, Calibrated] = {
    "lira": _calibrated_attack("lira", lira, "2 references and a holdout", _calibrated.of_lira),
    "rmia": _calibrated_attack("rmia", rmia, "2 references and a holdout", _calibrated.of_rmia),
    "deviation": _calibrated_attack(
        "deviation", deviation, "a holdout, better 2 references too", _calibrated.of_deviation
    ),
    "quantile": _calibrated_attack(
        "quantile", quantile, "a holdout of some dozens", _calibrated.of_quantile
    ),
    "u_lira": _calibrated_attack(
        "u_lira", u_lira, "several unlearned and several retrained models; from Python only"
    ),
}
