"""One line a method: means and spread over seeds and forget sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from unlearn_eval.comparison.measures import MEASURES
from unlearn_eval.comparison.outcomes import Comparison, Outcome
from unlearn_eval.comparison.rest import DAMAGE, EXPOSES, HARMED, rest_of
from unlearn_eval.verdict.tone import Tone, least, tone_of

__all__ = ["DAMAGE", "VERDICTS", "TableLine", "front", "lines"]

VERDICTS = {"FAIL": "FAIL", "INCONCLUSIVE": "?", "PASS": "PASS"}
"""How a table writes each verdict."""

_AIMS = ("gap", "rise", "wall_share")


@dataclass(frozen=True)
class TableLine:
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
        verdicts: how many cells have each verdict.
        exact: whether its method retrains.
        rest: what became of the records to keep, beside references: `damaged`, `exposes others`, or
            nothing to say.
    """

    name: str
    kind: str
    mean: Mapping[str, float]
    spread: Mapping[str, float]
    cells: int
    failed: int = 0
    front: bool = False
    verdicts: Mapping[str, int] = field(default_factory=dict)
    exact: bool = False
    rest: str = ""

    @property
    def whole(self) -> bool:
        """Whether every cell has numbers: a mean over some of them is of an easier question."""
        return self.cells > 0 and not self.failed

    @property
    def damaged(self) -> bool:
        """Whether what should have been kept has suffered."""
        return self.rest == HARMED

    @property
    def exposing(self) -> bool:
        """Whether more of what should have been kept comes out than references explain."""
        return self.rest == EXPOSES

    @property
    def tone(self) -> Tone | None:
        """The worst tone of its verdicts, open where a cell has none; None without verdicts."""
        if not self.verdicts:
            return None
        missing: list[Tone] = ["open"] * (sum(self.verdicts.values()) < self.cells + self.failed)
        return least([*map(tone_of, self.verdicts), *missing])

    @property
    def ruled(self) -> str:
        """How many cells have each verdict, as text; those that no cell has are left out."""
        counts = [
            f"{self.verdicts[v]} {word}" for v, word in VERDICTS.items() if v in self.verdicts
        ]
        return " · ".join(counts) or "–"

    @property
    def failing(self) -> float | None:
        """The share of verdicts that are FAIL; None without verdicts."""
        return self.verdicts.get("FAIL", 0) / n if (n := sum(self.verdicts.values())) else None

    def text(self, measure: str) -> str:
        """Write a mean with its spread."""
        column = MEASURES[measure]
        if measure not in self.mean:
            return "–"
        text = column.text(self.mean[measure])
        return f"{text} ± {column.text(self.spread[measure])}" if measure in self.spread else text


def lines(comparison: Comparison) -> list[TableLine]:
    """Sum a comparison up, a line a method.

    Args:
        comparison: the comparison.

    Returns:
        The model before, the references, then the methods in the order of the recipe. On the front
        are methods with numbers in every cell; the model before, which costs nothing and keeps all,
        dominates those that forget no more than it.
    """
    states = []
    if comparison.before:
        states.append(_line("before", "before", comparison.before))
    if comparison.references:
        states.append(_line("references", "reference", comparison.references))
    methods = [
        _line(
            name,
            "after",
            comparison.of(name),
            sum(bool(o.error) for o in comparison.outcomes if o.method == name),
        )
        for name in comparison.methods
    ]
    points = {line.name: line.mean for line in methods if line.whole}
    nothing = [{**line.mean, "rise": 0.0, "wall_share": 0.0} for line in states[:1]]
    best = front(points, nothing=nothing if comparison.before else ())
    return states + [
        replace(
            line,
            front=line.name in best,
            exact=line.name in comparison.exact,
            rest=""
            if line.name in comparison.exact
            else rest_of(comparison.of(line.name), comparison.references),
        )
        for line in methods
    ]


def _line(name: str, kind: str, outcomes: Sequence[Outcome], failed: int = 0) -> TableLine:
    values = {
        key: [o.numbers[key] for o in outcomes if key in o.numbers]
        for key in {key for o in outcomes for key in o.numbers}
    }
    return TableLine(
        name,
        kind,
        {key: fmean(v) for key, v in values.items()},
        {key: stdev(v) for key, v in values.items() if len(v) > 1},
        len(outcomes),
        failed,
        verdicts=dict(Counter(o.ruling.outcome for o in outcomes if o.ruling.outcome)),
    )


def front(
    means: Mapping[str, Mapping[str, float]],
    aims: Sequence[str] = _AIMS,
    nothing: Sequence[Mapping[str, float]] = (),
) -> set[str]:
    """Return the methods that no other dominates.

    One dominates another if it is nowhere worse and somewhere better; of two that are equal in
    everything, neither does.

    Args:
        means: by method, its means; lower is better in all aims.
        aims: the measures.
        nothing: what is there without any method, and dominates, too.

    Returns:
        Their names; a method that lacks a measure is not among them.
    """
    points = {
        name: [mean[a] for a in aims]
        for name, mean in means.items()
        if all(a in mean for a in aims)
    }

    def dominates(a: list[float], b: list[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    others = [
        *points.values(),
        *([n[a] for a in aims] for n in nothing if all(a in n for a in aims)),
    ]
    return {n for n, p in points.items() if not any(dominates(q, p) for q in others)}
