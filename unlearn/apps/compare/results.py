"""What a finished comparison leaves: its table, page, numbers and records, in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unlearn.apps.compare.layout import Layout
from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.apps.compare.study import Study
from unlearn.apps.compare.tuning.trials import TuningTrial

if TYPE_CHECKING:
    pass

import functools
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from unlearn.apps.compare.collect import MIXED, collect
from unlearn.apps.compare.details import (
    details,
    records_of,
    texts_of,
    without_ids,
    write_records,
)
from unlearn.apps.compare.tuning.trials import row_of
from unlearn.files import staged_file
from unlearn.strict_json import NotJsonError, read_json_file
from unlearn_eval.comparison import Comparison, TableLine, Tuned

if TYPE_CHECKING:
    from unlearn_eval.comparison.contests import Standings

__all__ = [
    "RESULT",
    "WRITTEN",
    "ComparisonResult",
    "Finished",
    "TuningResult",
    "recipe_json",
    "write_json",
    "write_up",
    "written_before",
]

RESULT = "comparison.json"


WRITTEN = (
    RESULT,
    "comparison.csv",
    "comparison.md",
    "report.html",
    "records.parquet",
    "recipe.json",
)


class Show(NamedTuple):
    """What of the records a comparison shows beside numbers and names under the user's key.

    Attributes:
        text: their text, and with it their ids, in the page.
        ids: their ids, in the page and in `records.parquet`.
    """

    text: bool = False
    ids: bool = False


@dataclass(frozen=True)
class ComparisonResult:
    """A finished comparison.

    Attributes:
        folder: where it is.
        heads: headings of its table.
        rows: the table, as text: means over cells.
        advice: which method to use when, a sentence each.
        failures: why cells have failed, each reason once.
        steps: how many steps were done now.
        tuning: how methods were tuned; empty where they were not.
    """

    folder: Path
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    advice: Sequence[str]
    failures: Sequence[str]
    steps: int
    tuning: Sequence[Tuned] = ()


def recipe_json(recipe: CompareRecipe, study: Study) -> dict[str, Any]:
    """Return the recipe as it was given, and what its inputs held."""
    return {"recipe": recipe.model_dump(mode="json"), "inputs": dict(study.inputs)}


def written_before(
    root: Path, layout: Layout, recipe: CompareRecipe, show: Show
) -> ComparisonResult | None:
    """Return what was written before, if it is of this recipe and its steps, and shows as much."""
    try:
        content = read_json_file(root / RESULT)
    except (OSError, NotJsonError):
        return None
    whole = all((root / name).is_file() for name in WRITTEN) and isinstance(content, dict)
    if not whole or content.get("of") != layout.digest or not all(s.done for s in layout.steps):
        return None
    if content.get("recipe") != recipe.model_dump(mode="json"):  # the budget of tuning, names
        return None
    if content.get("show") != show._asdict():
        return None
    try:
        table = content["table"]
        tuning = _summed_up([TuningTrial(**trial) for trial in content["tuning"]])
        return ComparisonResult(root, table["heads"], table["rows"], content["said"], (), 0, tuning)
    except (KeyError, TypeError):  # of another hand: written again
        return None


@dataclass(frozen=True)
class TuningResult:
    """What came of tuning.

    Attributes:
        recipe: with the options that were best.
        trials: all of them.
        failures: by folder, why a step of a trial has failed.
        steps: how many were done now.
    """

    recipe: CompareRecipe
    trials: Sequence[TuningTrial] = ()
    failures: Mapping[Path, str] = field(default_factory=dict)
    steps: int = 0


@dataclass(frozen=True)
class Finished:
    """A comparison whose steps are done, as far as they could be.

    Attributes:
        recipe: as it was given.
        study: the comparison, with the options that tuning found.
        layout: its steps.
        failures: by folder, why a step has failed.
        tuning: what came of it.
        steps: how many steps were done now, without those of tuning.
    """

    recipe: CompareRecipe
    study: Study
    layout: Layout
    failures: Mapping[Path, str]
    tuning: TuningResult
    steps: int


def write_up(finished: Finished, show: Show) -> ComparisonResult:
    """Write every file that sums the comparison up."""
    from unlearn_eval.comparison.contests import standings
    from unlearn_eval.report.comparison.page import as_csv, comparison_page
    from unlearn_eval.report.comparison.words import advice

    study, layout, trials = finished.study, finished.layout, finished.tuning.trials
    comparison = collect(study, layout, finished.failures)
    ranked = standings(comparison)
    table = _table(comparison, ranked.lines)
    sentences = [*advice(comparison, ranked.lines), *_warnings(comparison)]
    texts = texts_of(study)
    quoted = str if any(show) else functools.partial(without_ids, ids=texts)
    records = records_of(layout, texts if show.ids else None)
    page = comparison_page(
        comparison,
        ranked,
        _summed_up(trials),
        details(study, layout, comparison.outcomes, quoted),
        records_of(layout, texts) if show.text else records,
        texts if show.text else None,
        own_judge=finished.recipe.looked_at == finished.recipe.holdout,
    )
    _write_text(study.root / "comparison.csv", as_csv(comparison))
    _write_text(study.root / "comparison.md", _markdown(table.heads, table.with_spread))
    _write_text(study.root / "report.html", page)
    write_records(records, study.root / "records.parquet")
    content = {
        "schema": 4,
        "of": layout.digest,
        "show": show._asdict(),
        **recipe_json(finished.recipe, study),
        "options": {row_of(settings): settings.options for settings in study.recipe.methods},
        "table": {"heads": table.heads, "rows": table.means},
        "said": sentences,
        "tuning": [asdict(trial) for trial in trials],
        **_numbers(comparison, ranked),
    }
    write_json(study.root / RESULT, content)  # last: it says that the others are there
    failures = [*finished.tuning.failures.values(), *finished.failures.values()]
    return ComparisonResult(
        study.root,
        table.heads,
        table.means,
        sentences,
        tuple(dict.fromkeys(failures)),
        finished.tuning.steps + finished.steps,
        _summed_up(trials),
    )


@dataclass(frozen=True)
class _Table:
    """The table of a comparison, as text.

    Attributes:
        heads: headings of its columns.
        means: its rows, a mean a cell.
        with_spread: the same with the spread beside each mean.
    """

    heads: list[str]
    means: list[list[str]]
    with_spread: list[list[str]]


def _table(comparison: Comparison, lines: Sequence[TableLine]) -> _Table:
    """Lay out a line a method, with its verdicts where there is a policy."""
    from unlearn_eval.report.comparison.page import shown_measures

    measures = shown_measures(lines)
    verdicts = ["verdicts"] if comparison.policy else []
    first = [[line.name, line.ruled] if comparison.policy else [line.name] for line in lines]
    named = list(zip(first, lines, strict=True))
    return _Table(
        ["method", *verdicts, *(m.head for m in measures)],
        [[*cells, *(m.text(line.mean.get(m.name)) for m in measures)] for cells, line in named],
        [[*cells, *(line.text(m.name) for m in measures)] for cells, line in named],
    )


def _numbers(comparison: Comparison, ranked: Standings) -> dict[str, Any]:
    """Return every number of a comparison as JSON has it."""
    return {
        "setting": dict(comparison.setting),
        "price": dict(comparison.price),
        "lines": [asdict(line) for line in ranked.lines],
        "contests": [
            {
                "measure": contest.measure,
                "methods": list(contest.methods),
                "ranks": contest.ranking.ranks.tolist(),
                "friedman_p": _finite(contest.ranking.p_value),
                "critical_difference": contest.ranking.difference,
                "cases": contest.ranking.cases,
                "pairs": [asdict(pair) for pair in contest.pairs],
            }
            for contest in ranked.contests
        ],
        "before": [asdict(outcome) for outcome in comparison.before],
        "references": [asdict(outcome) for outcome in comparison.references],
        "cells": [asdict(outcome) for outcome in comparison.outcomes],
    }


def _warnings(comparison: Comparison) -> list[str]:
    """Return what stands in the way of comparing the cells."""
    setting = comparison.setting
    return [f"note: {MIXED}: {setting[MIXED]}"] if MIXED in setting else []


def _summed_up(trials: Sequence[TuningTrial]) -> list[Tuned]:
    """Sum up how each method was tuned, for the page."""
    return [
        Tuned(
            trial.method,
            sum(other.method == trial.method for other in trials),
            ", ".join(f"{key} = {value}" for key, value in trial.options.items()) or "defaults",
            sum(other.method == trial.method and other.pruned for other in trials),
        )
        for trial in trials
        if trial.chosen
    ]


def _finite(value: float) -> float | None:
    return value if value == value else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write strict JSON in one rename."""
    _write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    with staged_file(path) as stage:
        stage.write_text(text, encoding="utf-8")


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)
