"""From finished steps to the numbers of a comparison; reads small files, and imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from unlearn.apps.compare.data import sources
from unlearn.apps.compare.layout import Cell, Layout, Step
from unlearn.apps.compare.shards import method_of
from unlearn.apps.compare.study import Study
from unlearn.apps.compare.tuning.trials import row_of
from unlearn.apps.compare.verdicts import ruling_of, rulings_before
from unlearn.errors import DataError
from unlearn.strict_json import NotJsonError, read_json_file
from unlearn_eval.comparison import (
    Comparison,
    Outcome,
    Ruling,
    aim_of,
    forgetting,
    numbers_of,
    revived,
    trials_of,
    untried,
)

__all__ = ["MIXED", "collect", "setting"]

MIXED = "steps of unequal precision"
"""What of the setting says that steps were made with different data types."""

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
        at_first = numbers_of(rows, "after")
        first, others = rulings_before(step) if study.recipe.policy else (Ruling(), [])
        strongest, attack = forgetting(rows, "after")
        link = _link(step, study)
        numbers = at_first | {"rise": 0.0} | strongest
        before.append(Outcome("before", 0, f, numbers, attack, link=link, ruling=first))
        for i, reference in enumerate(layout.references[f]):
            numbers, attack = _measured(rows, f"reference:{i}", at_first)
            numbers |= _relative(reference, price[f])
            if layout.trials[f] and layout.trials[f][i].done:
                numbers |= revived(_rows(layout.trials[f][i]))
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
        exact=frozenset(
            row_of(settings)
            for settings in study.recipe.methods
            if method_of(settings.method).kind == "exact"
        ),
        setting=setting(study) | _mixed(layout),
    )


def _measured(rows: Rows, state: str, before: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """Return the numbers of a state beside those of the model before, and its strongest attack."""
    strongest, attack = forgetting(rows, state)
    numbers = numbers_of(rows, state) | strongest
    if "retain_loss" in numbers and "retain_loss" in before:
        numbers["rise"] = numbers["retain_loss"] - before["retain_loss"]
    return numbers, attack


def _mixed(layout: Layout) -> dict[str, str]:
    """Say so where steps were made with different data types, such as begun on a GPU."""
    counts = Counter(s.facts().get("dtype") for s in layout.steps if s.done)
    known = {name: n for name, n in counts.items() if name}  # older steps do not tell
    if len(known) < 2:
        return {}
    steps = " and ".join(f"{n} in {name}" for name, n in sorted(known.items()))
    return {
        MIXED: f"{steps}: small differences may come from that alone; begin anew with one --dtype "
        "to compare them"
    }


def setting(study: Study) -> dict[str, str]:
    """Return what was compared on what, in the words of the recipe; paths by their last part.

    Args:
        study: the comparison.

    Returns:
        By what it is called, for people.
    """
    recipe = study.recipe
    data = sources(recipe.data)
    named = [f"{part}: {_short(x)}" if len(data) > 1 else _short(x) for part, x in data.items()]
    trained = {**recipe.finetune.lora, **recipe.finetune.options}
    facts = {
        "model": _short(recipe.model),
        "data": ", ".join(named),
        "learned": recipe.train,
        "forgotten": " and ".join(recipe.forget_sets),
        "judged by": f"{recipe.holdout}, never seen",
        "methods look at": f"{recipe.looked_at}, never seen",
        "template": recipe.template or "that of the data",
        "training": ", ".join(f"{key}={value}" for key, value in trained.items()),
        "references": f"{recipe.references} a forget set, trained from the start without it",
        "backdoor": Path(recipe.trigger or "").name,
        "further changes": ", ".join(recipe.robustness),
    }
    return {key: value for key, value in facts.items() if value}


def _short(source: str) -> str:
    """Return a path's last part, and what is no path as it is."""
    return Path(source).name if Path(source).expanduser().exists() else source


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
    file = step.result / "audit.json"
    try:
        rows: Rows = read_json_file(file)["rows"]
    except (OSError, NotJsonError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no audit: {error!r}; delete {step.folder}") from None
    return rows


def _link(step: Step, study: Study) -> str:
    return (step.result / "report.html").relative_to(study.root).as_posix()


Price = Mapping[str, float]
"""What training a reference took: `tokens`, `memory`, and `wall` by the place where it was."""


def _price(layout: Layout) -> list[dict[str, float]]:
    """Return by forget set what training a reference took, as a mean over those that are done."""
    prices = []
    for group in layout.references:
        facts = [step.facts() for step in group if step.done]
        places = dict.fromkeys(_time_at(f) for f in facts)
        values = {key: [f[key] for f in facts if f.get(key)] for key in ("tokens", "memory")}
        values |= {p: [f["wall"] for f in facts if _time_at(f) == p] for p in places}
        prices.append({key: fmean(v) for key, v in values.items() if v})
    return prices


def _time_at(facts: Mapping[str, Any]) -> str:
    """Name the wall time of a step by where it was done: others are not compared with it."""
    return f"wall {facts.get('place', '')}"


def _together(price: Sequence[Price]) -> dict[str, list[float]]:
    """Return what retraining took over all forget sets, wall times wherever they were."""
    by_kind: dict[str, list[float]] = {}
    for each in price:
        for key, value in each.items():
            by_kind.setdefault(key.partition(" ")[0], []).append(value)
    return by_kind


def _relative(step: Step, price: Price) -> dict[str, float]:
    """Return what a training took, as it is and in parts of retraining in the same place."""
    facts = step.facts()
    taken = {key: float(facts[key]) for key in ("wall", "tokens", "memory") if facts.get(key)}
    paid = {**price, "wall": price.get(_time_at(facts), 0.0)}
    return taken | {f"{key}_share": taken[key] / paid[key] for key in taken if paid.get(key)}


def _outcome(
    cell: Cell,
    study: Study,
    layout: Layout,
    failures: Mapping[Path, str],
    price: Sequence[Price],
) -> Outcome:
    needed = (cell.unlearn, cell.audit)  # its audit counts, whatever becomes of further changes
    failed = [failures[step.folder] for step in needed if step.folder in failures]
    link = ""
    numbers: dict[str, float] = {}
    attack = stopped = ""
    notes: list[str] = []
    ruling = Ruling()
    if cell.unlearn.done:
        facts = cell.unlearn.facts()
        numbers |= _relative(cell.unlearn, price[cell.forget])
        stopped = facts.get("stopped") or ""
    if cell.audit.done and cell.target:  # its numbers and its replay are in the step
        facts = cell.audit.facts()
        numbers |= facts["numbers"]
        attack, ruling = "loss", Ruling(**facts["ruling"]) if study.recipe.policy else ruling
    elif cell.audit.done:
        rows = _rows(cell.audit)
        link = _link(cell.audit, study)
        ruling = ruling_of(cell.audit) if study.recipe.policy else ruling
        measured, attack = _measured(rows, "after", numbers_of(rows, "before"))
        numbers |= measured
    if cell.trial and cell.trial.done:
        changed = _rows(cell.trial)
        ours = trials_of(changed)
        numbers |= revived(changed)
        others = [trials_of(_rows(s)) for s in layout.trials[cell.forget] if s.done]
        numbers |= aim_of(ours, others)
        if missing := untried(ours, others):
            notes.append(f"no number after further changes: not measured: {', '.join(missing)}")
    elif cell.trial and cell.trial.folder in failures and not failed:
        notes.append(f"no number after further changes: {failures[cell.trial.folder]}")
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
        notes=notes,
    )
