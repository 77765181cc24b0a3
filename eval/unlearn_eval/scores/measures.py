"""What an audit's table is computed from: score matrices, and what else was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["Measurement", "Measurements", "Prompted", "Scores", "check_same_records"]

Scores = Mapping[str, Mapping[str, TokenScores]]
"""Score matrices by state (`before`, `after`, `reference:0`, …, `base`) and split."""


@dataclass(frozen=True, eq=False)
class Measurement:
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


Measurements = Mapping[str, Mapping[str, Sequence[Measurement]]]
"""Other measurements by state and split."""

Prompted = Mapping[str, Mapping[str, TokenScores]]
"""Scores of the forget records by state and prompt state."""


def check_same_records(scores: Scores) -> None:
    """Refuse states that were scored on different records: nothing of them could be compared.

    Raises DataError naming the state, the split and the first record at which they part.
    """
    if not scores:
        return
    first, known = next(iter(scores.items()))
    for state, splits in scores.items():
        if splits.keys() != known.keys():
            raise DataError(
                f"the states {first!r} and {state!r} were scored on different splits "
                f"({', '.join(known)}; {', '.join(splits)}): score both on the same data"
            )
        for split, matrix in splits.items():
            ours, theirs = (
                list(zip(m.ids, m.lengths, strict=True)) for m in (known[split], matrix)
            )
            if ours != theirs:
                apart = next((b[0] for a, b in zip(ours, theirs, strict=False) if a != b), None)
                raise DataError(
                    f"the states {first!r} and {state!r} were scored on different records or "
                    f"tokens of {split} ({len(ours)} and {len(theirs)} records, the first that "
                    f"differs is {apart!r}): score both with the same data, template and limit"
                )
