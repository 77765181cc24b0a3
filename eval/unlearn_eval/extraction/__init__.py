"""Extraction: does the model still give a record away? One probe a file, one line here.

Every probe gives one number (or yes/no) a record; larger = more is extracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from unlearn_eval._arrays import BoolArray, FloatArray
from unlearn_eval.extraction import exact, strength, verbatim
from unlearn_eval.scores import TokenScores

__all__ = ["PROBES", "Probe"]


class _Score(Protocol):
    """A probe as a function; it takes a base like an attack does, and none uses it."""

    def __call__(
        self, target: TokenScores, base: TokenScores | None = None
    ) -> BoolArray | FloatArray: ...


class _Module(Protocol):
    """What every probe's file defines."""

    METRIC: str
    PAPER: str
    SUMMARY: str

    @property
    def score(self) -> _Score: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """An extraction probe and how a split is summarised by it.

    Attributes:
        name: as on the command line; its file has the same name.
        score: the function, `(target, base=None)` to one value a record.
        metric: "rate" for yes/no values, "mean" for fractions.
        paper: where it comes from.
        summary: one line for listings.
    """

    name: str
    score: _Score
    metric: str
    paper: str
    summary: str


def _probe(name: str, module: _Module) -> Probe:
    """Describe the probe that a module defines."""
    return Probe(name, module.score, module.METRIC, module.PAPER, module.SUMMARY)


PROBES: dict[str, Probe] = {
    "verbatim": _probe("verbatim", verbatim),
    "strength": _probe("strength", strength),
    "exact": _probe("exact", exact),
}
