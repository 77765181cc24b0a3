"""The page of each method inside the page of a comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unlearn_eval.comparison.details import About, Run
from unlearn_eval.comparison.lines import VERDICTS
from unlearn_eval.comparison.measures import TableMeasure
from unlearn_eval.comparison.outcomes import Comparison, Outcome
from unlearn_eval.report.comparison.curves import in_words, objective_curves, record_curves
from unlearn_eval.report.comparison.records import key_of
from unlearn_eval.verdict.tone import tone_of

__all__ = ["MethodPage", "anchors", "cell_of", "method_pages"]


@dataclass(frozen=True)
class MethodPage:
    """What is shown of one method.

    Attributes:
        anchor: of its page within the page.
        about: what the method is.
        objective: the loss that its runs minimised as SVG, empty without any.
        words: the same in words.
        records: the loss of the records as SVG, empty without any.
        options: every option in effect, with `/` between the values of different runs.
        cells: its cells, with all numbers.
    """

    anchor: str
    about: About
    objective: str
    words: str
    records: str
    options: Mapping[str, str]
    cells: Sequence[Mapping[str, Any]]


def anchors(names: Sequence[str]) -> dict[str, str]:
    """Return for each row an anchor that no other row has.

    Args:
        names: of the rows.

    Returns:
        By name, such as `method-npo`.
    """
    by_name: dict[str, str] = {}
    for name in names:
        plain = "method-" + (re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-") or "unnamed")
        anchor, i = plain, 1
        while anchor in by_name.values():
            i += 1
            anchor = f"{plain}-{i}"
        by_name[name] = anchor
    return by_name


def method_pages(
    comparison: Comparison, about: Sequence[About], measures: Sequence[TableMeasure]
) -> list[MethodPage]:
    """Lay out the page of each method.

    Args:
        comparison: the comparison.
        about: what its rows are.
        measures: those that are shown.

    Returns:
        A page a row, in the order of the recipe.
    """
    where = anchors([one.name for one in about])
    return [
        MethodPage(
            anchor=where[one.name],
            about=one,
            objective=objective_curves(one.runs),
            words=in_words(one.runs),
            records=record_curves(one.runs),
            options=_in_effect(one.runs),
            cells=[
                cell_of(outcome, measures) | {"run": _run_of(one, outcome)}
                for outcome in comparison.outcomes
                if outcome.method == one.name
            ],
        )
        for one in about
    ]


def cell_of(outcome: Outcome, measures: Sequence[TableMeasure]) -> dict[str, Any]:
    """Lay out one cell.

    Args:
        outcome: the cell.
        measures: those that are shown.

    Returns:
        `outcome`; its `key`; `cells`, each number with its text; `verdict`, its word, with its
        `tone`, and `why`.
    """
    values = [outcome.numbers.get(measure.name) for measure in measures]
    ruling = outcome.ruling
    return {
        "outcome": outcome,
        "key": key_of(outcome.method, outcome.seed, outcome.forget),
        "cells": [
            {"value": "" if value is None else repr(value), "text": measure.text(value)}
            for measure, value in zip(measures, values, strict=True)
        ],
        "verdict": VERDICTS.get(ruling.outcome, "–"),
        "tone": tone_of(ruling.outcome) if ruling.outcome else "",
        "why": "; ".join([*ruling.reasons, *(f"would decide: {w}" for w in ruling.would_decide)]),
    }


def _run_of(about: About, outcome: Outcome) -> Run | None:
    whose = (outcome.seed, outcome.forget)
    return next((run for run in about.runs if (run.seed, run.forget) == whose), None)


def _in_effect(runs: Sequence[Run]) -> dict[str, str]:
    names = dict.fromkeys(name for run in runs for name in run.options)
    return {
        name: " / ".join(dict.fromkeys(run.options.get(name, "–") for run in runs))
        for name in names
    }
