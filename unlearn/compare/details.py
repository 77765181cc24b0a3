"""What the pages of single methods tell: from the recipe, the methods and the finished steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from unlearn.compare.layout import Cell, Layout
from unlearn.compare.study import Study
from unlearn.lineage import FILE_NAME
from unlearn.methods import get_method
from unlearn_eval.comparison import About, Run

__all__ = ["details"]


def details(study: Study, layout: Layout) -> list[About]:
    """Tell of every row what its method is and how its runs went.

    Args:
        study: the comparison.
        layout: its steps.

    Returns:
        One a row, in the order of the recipe.
    """
    found = []
    for settings in study.recipe.methods:
        method = get_method(settings.method)
        name = settings.name or settings.method
        cells = [cell for cell in layout.cells if cell.name == name and cell.unlearn.done]
        found.append(
            About(
                name=name,
                method=method.name,
                summary=method.summary,
                paper=method.paper,
                when=method.when,
                cost=method.cost,
                given=_texts(settings.options),
                runs=[_run(cell) for cell in cells],
            )
        )
    return found


def _run(cell: Cell) -> Run:
    facts = cell.unlearn.facts()
    return Run(
        seed=cell.seed,
        forget=cell.forget,
        curve=[(point["step"], point["loss"]) for point in facts.get("curve", ())],
        steps=facts.get("steps"),
        planned=facts.get("planned_steps"),
        notes=facts.get("notes", ()),
        options=_in_effect(cell),
    )


def _in_effect(cell: Cell) -> dict[str, str]:
    """Return the options that the adapter's lineage notes, where it has any."""
    try:
        content = json.loads((cell.unlearn.result / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return _texts(content.get("options") or {})


def _texts(options: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in options.items()
        if value is not None
    }
