"""Membership inference: was a record in the training data? One attack a file, one line here.

Every attack gives one number a record; larger = more likely a member.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from unlearn_eval._arrays import FloatArray
from unlearn_eval.membership import ez, loss, min_k, min_k_plus_plus, reference, zlib
from unlearn_eval.scores import TokenScores

__all__ = ["ATTACKS", "Attack"]


class _Score(Protocol):
    """An attack as a function; keyword options beyond these have defaults."""

    def __call__(self, target: TokenScores, base: TokenScores | None = None) -> FloatArray: ...


class _Module(Protocol):
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


def _attack(name: str, module: _Module) -> Attack:
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
