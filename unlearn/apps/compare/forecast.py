"""What a comparison has to do, and what it will take, in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unlearn.apps.compare.comparing import Stage
from unlearn.apps.compare.estimate import Costs, costs, counts
from unlearn.apps.compare.layout import Step
from unlearn_eval.report.formats import duration

__all__ = ["Forecast", "forecast"]


class Forecast(NamedTuple):
    """A stage of a comparison before it runs.

    Attributes:
        cells: how many there are.
        axes: what they are made of.
        records: what is learned, forgotten and never seen.
        heads: of the table.
        rows: a row for what is trained: runs, those done, tokens to go.
        costs: tokens, operations and time in all.
    """

    cells: str
    axes: str
    records: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    costs: Sequence[str]


def forecast(stage: Stage) -> Forecast:
    """Sum up what there is to do in one stage; nothing is run."""
    study, layout = stage.study, stage.layout
    sizes = counts(study)
    expected = costs(study, layout, sizes)
    sets = " + ".join(f"{n:,}" for n in sizes.forget)
    references = [step for group in layout.references for step in group]
    rows = [
        _row("the adapter under study", [layout.target], expected),
        _row("references", references, expected),
    ]
    counted: set[Path] = set()
    for name in dict.fromkeys(cell.name for cell in layout.cells):
        steps = [cell.unlearn for cell in layout.cells if cell.name == name]
        # a row that is another under a second name takes nothing
        rows.append(_row(name, [s for s in steps if s.folder not in counted], expected))
        counted |= {step.folder for step in steps}
    return Forecast(
        cells=f"{stage.title}{len(layout.cells)} cells",
        axes=f"{_many(study.recipe.methods, 'method')} × {_many(study.recipe.seeds, 'seed')} × "
        f"{_many(sizes.forget, 'forget set')}; references a set: {study.recipe.references}",
        records=f"{sizes.train:,} records to learn, {sets} to forget, {sizes.holdout:,} never "
        f"seen; about {sizes.tokens:.0f} tokens each ({sizes.how})",
        heads=["training", "runs", "done", "tokens to go, at most"],
        rows=rows,
        costs=_costs(expected),
    )


def _costs(expected: Costs) -> list[str]:
    total = expected.total
    lines = [
        f"to do: {_count(total.trained)} tokens forward and backward at most, and "
        f"{_count(total.scored)} forward only, in audits"
    ]
    if expected.parameters:
        operations = total.operations(expected.parameters)
        lines.append(
            f"{_count(expected.parameters)} parameters: {operations:.2g} floating-point operations"
        )
    if expected.seconds is None:
        return [*lines, f"time: unknown; {expected.how}"]
    return [*lines, f"about {duration(expected.seconds)} of one process, from {expected.how}"]


def _row(label: str, steps: Sequence[Step], expected: Costs) -> list[str]:
    """Sum steps up: how many there are, how many are done, what the others take."""
    to_go = [expected.work[s.folder].trained for s in steps if s.folder in expected.work]
    return [label, str(len(steps)), str(len(steps) - len(to_go)), _count(sum(to_go))]


def _many(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'s' * (len(things) != 1)}"


def _count(number: float) -> str:
    """Write a large number as people say it."""
    for size, word in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:.0f}"
