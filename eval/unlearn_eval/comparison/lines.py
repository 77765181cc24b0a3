"""One line a method: means and spread over seeds and forget sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from unlearn_eval.comparison.measures import MEASURES
from unlearn_eval.comparison.outcomes import Comparison, Outcome

__all__ = ["DAMAGE", "Line", "front", "lines"]

DAMAGE = 0.1
"""Rise of the retain loss, in nats a token, from which a model counts as damaged: 10 % of
perplexity, as in the report of an audit."""

_AIMS = ("gap", "rise", "wall_share")


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Attributes:
        name: the method; `before` and `references` for those.
        kind: of state: `before`, `reference`, `after`.
        mean: by measure.
        spread: standard deviation over cells, where there are two or more.
        cells: how many have numbers.
        failed: how many have none.
        front: whether no other method is better in one of forgetting, utility and cost without
            being worse in another.
    """

    name: str
    kind: str
    mean: Mapping[str, float]
    spread: Mapping[str, float]
    cells: int
    failed: int = 0
    front: bool = False

    @property
    def damaged(self) -> bool:
        """Whether what should have been kept has suffered."""
        return self.mean.get("rise", 0.0) > DAMAGE

    def text(self, measure: str) -> str:
        """Write a mean with its spread."""
        found = MEASURES[measure]
        if measure not in self.mean:
            return "–"
        text = found.text(self.mean[measure])
        return f"{text} ± {found.text(self.spread[measure])}" if measure in self.spread else text


def lines(comparison: Comparison) -> list[Line]:
    """Sum a comparison up, a line a method.

    Args:
        comparison: the comparison.

    Returns:
        The model before, the references, then the methods in the order of the recipe.
    """
    found = []
    if comparison.before:
        found.append(_line("before", "before", comparison.before))
    if comparison.references:
        found.append(_line("references", "reference", comparison.references))
    methods = [
        _line(
            name,
            "after",
            comparison.of(name),
            sum(bool(o.error) for o in comparison.outcomes if o.method == name),
        )
        for name in comparison.methods
    ]
    best = front({line.name: line.mean for line in methods})
    return found + [
        Line(
            line.name,
            line.kind,
            line.mean,
            line.spread,
            line.cells,
            line.failed,
            line.name in best,
        )
        for line in methods
    ]


def _line(name: str, kind: str, outcomes: Sequence[Outcome], failed: int = 0) -> Line:
    values = {
        key: [o.numbers[key] for o in outcomes if key in o.numbers]
        for key in {key for o in outcomes for key in o.numbers}
    }
    return Line(
        name,
        kind,
        {key: fmean(v) for key, v in values.items()},
        {key: stdev(v) for key, v in values.items() if len(v) > 1},
        len(outcomes),
        failed,
    )


def front(found: Mapping[str, Mapping[str, float]], aims: Sequence[str] = _AIMS) -> set[str]:
    """Return the methods that no other dominates.

    One dominates another if it is nowhere worse and somewhere better; of two that are equal in
    everything, neither does.

    Args:
        found: by method, its means; lower is better in all aims.
        aims: the measures.

    Returns:
        Their names; a method that lacks a measure is not among them.
    """
    points = {
        name: [mean[a] for a in aims]
        for name, mean in found.items()
        if all(a in mean for a in aims)
    }

    def dominates(a: list[float], b: list[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    return {n for n, p in points.items() if not any(dominates(q, p) for q in points.values())}
