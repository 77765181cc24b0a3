"""Extraction: does the model still give a record away? One probe a file, one line here.

Every probe gives one number (or yes/no) a record; larger = more is extracted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from unlearn_eval.arrays import BoolArray, FloatArray
from unlearn_eval.extraction import discoverable, exact, secret, strength, verbatim
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["PROBES", "Probe"]


class _ProbeModule(Protocol):
    """What every probe's file defines."""

    METRICS: dict[str, dict[str, Any]]
    PAPER: str
    SUMMARY: str

    @property
    def score(self) -> Callable[..., BoolArray | FloatArray]: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """An extraction probe and how a split is summarised by it.

    Attributes:
        name: as on the command line; its file has the same name.
        score: the function, `(target, base=None, **options)` to one value a record.
        metrics: by name, the options of `score` that give it; "rate…" for yes/no values, "mean…"
            for fractions.
        applies: says which records the probe is for; None if for all.
        paper: where it comes from.
        summary: one line for listings.
    """

    name: str
    score: Callable[..., BoolArray | FloatArray]
    metrics: Mapping[str, Mapping[str, Any]]
    paper: str
    summary: str
    applies: Callable[[TokenScores], BoolArray] | None = None


def _probe(
    name: str, module: _ProbeModule, applies: Callable[[TokenScores], BoolArray] | None = None
) -> Probe:
    """Describe the probe that a module defines."""
    return Probe(name, module.score, module.METRICS, module.PAPER, module.SUMMARY, applies)


PROBES: dict[str, Probe] = {
    "verbatim": _probe("verbatim", verbatim),
    "strength": _probe("strength", strength),
    "exact": _probe("exact", exact),
    "discoverable": _probe("discoverable", discoverable),
    "secret": _probe("secret", secret, secret.has_secret),
}
