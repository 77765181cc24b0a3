"""From finished steps to the numbers of a comparison; reads small files, and imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from unlearn.compare.layout import Cell, Layout, Step
from unlearn.compare.study import Study
from unlearn.compare.verdicts import ruling_of, rulings_before
from unlearn_eval.comparison import (
    Comparison,
    Outcome,
    Ruling,
    aim_of,
    forgetting,
    numbers_of,
    trials_of,
)

__all__ = ["collect"]

Rows = Sequence[Mapping[str, Any]]


def collect(study: Study, layout: Layout, failures: Mapping[Path, str]) -> Comparison:
    """Read what the steps have found.

    Args:
        study: the comparison.
        layout: its steps.
        failures: by folder, why a step has failed.

    Returns:
        The comparison. A cell without an audit has an error instead of numbers.
    """
    price = _price(layout)
    outcomes = [_outcome(cell, study, layout, failures, price) for cell in layout.cells]
    before, references = [], []
    for f, step in enumerate(layout.before):
        if not step.done:
            continue
        rows = _rows(step)
        found = numbers_of(rows, "after")
        found["rise"] = 0.0
        first, others = rulings_before(step) if study.recipe.policy else (Ruling(), [])
        strongest, attack = forgetting(rows, "after")
        link = _link(step, study)
        before.append(Outcome("before", 0, f, found | strongest, attack, link=link, ruling=first))
        for i, reference in enumerate(layout.references[f]):
            state = f"reference:{i}"
            numbers = numbers_of(rows, state)
            strongest, attack = forgetting(rows, state)
            numbers |= strongest
            if "retain_loss" in numbers and "retain_loss" in found:
                numbers["rise"] = numbers["retain_loss"] - found["retain_loss"]
            numbers |= _relative(reference, price[f])
            ruling = others[i] if i < len(others) else Ruling()
            references.append(Outcome("references", i, f, numbers, attack, ruling=ruling))
    return Comparison(
        title=_title(study),
        outcomes=outcomes,
        before=before,
        references=references,
        forget_sets=study.recipe.forget_sets,
        price={key: fmean(values) for key, values in _together(price).items()},
        policy=Path(study.recipe.policy or "").stem,
    )


def _title(study: Study) -> str:
    methods, seeds = len(study.recipe.methods), len(study.recipe.seeds)
    sets = len(study.recipe.forget_sets)
    words = [
        f"{methods} method{'s' * (methods != 1)}",
        f"{seeds} seed{'s' * (seeds != 1)}",
        f"{sets} forget sets" if sets > 1 else "",
    ]
    return ", ".join(word for word in words if word)


def _rows(step: Step) -> Rows:
    found: Rows = json.loads((step.result / "audit.json").read_text(encoding="utf-8"))["rows"]
    return found


def _link(step: Step, study: Study) -> str:
    return (step.result / "report.html").relative_to(study.root).as_posix()


def _price(layout: Layout) -> list[dict[str, float]]:
    """Return by forget set what training a reference took, as a mean over those that are done."""
    return [
        {
            key: fmean(values)
            for key in ("wall", "tokens", "memory")
            if (values := [f[key] for f in facts if f.get(key)])
        }
        for group in layout.references
        for facts in [[step.facts() for step in group if step.done]]
    ]


def _together(price: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {k: [p[k] for p in price if k in p] for k in {key for p in price for key in p}}


def _relative(step: Step, price: Mapping[str, float]) -> dict[str, float]:
    """Return what a training took, as it is and in parts of retraining."""
    facts = step.facts()
    found = {key: float(facts[key]) for key in ("wall", "tokens", "memory") if facts.get(key)}
    parts = {f"{key}_share": found[key] / price[key] for key in found if price.get(key)}
    return found | parts


def _outcome(
    cell: Cell,
    study: Study,
    layout: Layout,
    failures: Mapping[Path, str],
    price: Sequence[Mapping[str, float]],
) -> Outcome:
    failed = [failures[step.folder] for step in cell.steps if step.folder in failures]
    link = ""
    numbers: dict[str, float] = {}
    attack = stopped = ""
    ruling = Ruling()
    if cell.unlearn.done:
        facts = cell.unlearn.facts()
        numbers |= _relative(cell.unlearn, price[cell.forget])
        stopped = facts.get("stopped") or ""
    if cell.audit.done:
        rows = _rows(cell.audit)
        link = _link(cell.audit, study)
        ruling = ruling_of(cell.audit) if study.recipe.policy else ruling
        numbers |= numbers_of(rows, "after")
        strongest, attack = forgetting(rows, "after")
        numbers |= strongest
        before = numbers_of(rows, "before")
        if "retain_loss" in before and "retain_loss" in numbers:
            numbers["rise"] = numbers["retain_loss"] - before["retain_loss"]
    if cell.trial and cell.trial.done:
        others = [trials_of(_rows(s)) for s in layout.trials[cell.forget] if s.done]
        numbers |= aim_of(trials_of(_rows(cell.trial)), others)
    return Outcome(
        method=cell.name,
        seed=cell.seed,
        forget=cell.forget,
        numbers=numbers,
        attack=attack,
        stopped=stopped,
        error=failed[0] if failed else "",
        link=link,
        ruling=ruling,
    )
