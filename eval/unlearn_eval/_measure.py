"""What an audit's table is computed from: score matrices, and what else was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unlearn_eval._arrays import FloatArray, IntArray
from unlearn_eval.scores import TokenScores

__all__ = ["Measure", "Measures", "Prompted", "Scores"]

Scores = Mapping[str, Mapping[str, TokenScores]]
"""Score matrices by state (`before`, `after`, `reference:0`, …, `base`) and split."""


@dataclass(frozen=True, eq=False)
class Measure:
    """What else was measured of some records of one state and split, beside likelihoods.

    Attributes:
        probe: `package.file` of the probe.
        metric: `mean`, `recall`, …: the mean over records of what `values` holds; of membership
            attacks `score`, which is compared between splits.
        positions: int64[k], which records of the split were measured.
        values: float64[k].
        params: the probe's parameters.
    """

    probe: str
    metric: str
    positions: IntArray
    values: FloatArray
    params: Mapping[str, Any] = field(default_factory=dict)


Measures = Mapping[str, Mapping[str, Sequence[Measure]]]
"""Other measurements by state and split."""

Prompted = Mapping[str, Mapping[str, TokenScores]]
"""Scores of the forget records by state and prompt state."""
