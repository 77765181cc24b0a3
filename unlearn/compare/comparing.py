"""Run a comparison from a recipe, and write what came of it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unlearn._output import check_output, staged_file
from unlearn._recipes import CompareRecipe
from unlearn.compare.collect import collect
from unlearn.compare.details import details, records_of, texts_of, write_records
from unlearn.compare.layout import Layout, Step, lay_out
from unlearn.compare.running import Progress, Watcher, held, run_steps
from unlearn.compare.study import Study
from unlearn.compare.tuning import Trial, chosen_of, tuned, tuning_recipe
from unlearn.errors import UnlearnError
from unlearn_eval.comparison import Tuned, lines

__all__ = ["Compared", "compare", "planned", "stages"]

_RESULT = "comparison.json"
_OURS = ("shared", "cells")
_WRITTEN = (
    _RESULT,
    "comparison.csv",
    "comparison.md",
    "report.html",
    "records.parquet",
    "recipe.json",
)


@dataclass(frozen=True)
class Compared:
    """A finished comparison.

    Attributes:
        folder: where it is.
        heads: headings of its table.
        rows: the table, as text: means over cells.
        said: which method to use when, a sentence each.
        failures: why cells have failed, each reason once.
        steps: how many steps were done now.
    """

    folder: Path
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    said: Sequence[str]
    failures: Sequence[str]
    steps: int


class _Silent:
    """Tells nobody."""

    @contextlib.contextmanager
    def begun(self, step: Step) -> Iterator[Progress | None]:
        """A step begins."""
        yield None

    def ended(self, step: Step, failure: str | None) -> None:
        """A step is done, or has failed."""


def planned(recipe: CompareRecipe, output: str | Path, **opening: Any) -> tuple[Study, Layout]:
    """Return what a comparison consists of; nothing is written, loaded or fetched.

    Args:
        recipe: the recipe.
        output: the folder where it will be, or is.
        **opening: `dtype` and `device` of `open_model`.

    Returns:
        The study and its steps.

    Raises:
        UnlearnError: if the recipe cannot work.
    """
    study = Study.of(recipe, Path(output).expanduser().absolute(), opening)
    return study, lay_out(study)


def stages(
    recipe: CompareRecipe, output: str | Path, **opening: Any
) -> list[tuple[str, Study, Layout]]:
    """Return what a comparison consists of, one after the other: the trials, if any, and the cells.

    Args:
        recipe: the recipe.
        output: the folder where it will be, or is.
        **opening: `dtype` and `device` of `open_model`.

    Returns:
        (beginning of its title, the study, its steps) of each. As long as trials are left, the
        cells are those of the recipe's own options.

    Raises:
        UnlearnError: if the recipe cannot work.
    """
    if not recipe.tune:
        return [("", *planned(recipe, output, **opening))]
    study, layout = planned(tuning_recipe(recipe), output, **opening)
    best = recipe
    if all(step.done for step in layout.steps):
        best = tuned(recipe, chosen_of(recipe, collect(study, layout, {})))
    return [("tuning: ", study, layout), ("", *planned(best, output, **opening))]


def compare(
    recipe: CompareRecipe,
    output: str | Path,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    show_text: bool = False,
    **opening: Any,
) -> Compared:
    """Run methods side by side on the same records, beside retrained references.

    What the folder holds already is not done again: a comparison that was killed goes on where it
    was, and one whose recipe was changed does what the change asks for. A cell that fails is
    reported and does not stop the rest.

    Args:
        recipe: the recipe.
        output: folder for everything.
        jobs: processes at once.
        overwrite: begin anew, whatever the folder holds.
        watcher: told what happens.
        show_text: put the text of records into the page, which otherwise holds ids and numbers; no
            step is done again for it.
        **opening: `dtype` and `device` of `open_model`.

    Returns:
        The table, and where everything is.

    Raises:
        UnlearnError: for any input that cannot be used; nothing is trained then. Also if the
            adapter under study cannot be trained.
    """
    root = _folder(output, overwrite=overwrite)
    found = [(study, layout) for _, study, layout in stages(recipe, root, **opening)]
    if overwrite or not all(step.done for _, layout in found for step in layout.steps):
        from unlearn.compare.work import check

        check(planned(recipe, root, **opening)[0])  # before anything is written
        check(found[0][0])
    root.mkdir(parents=True, exist_ok=True)
    with held(root):
        if overwrite:
            _clear(root)
        watcher = watcher or _Silent()
        trials: list[Trial] = []
        failures: dict[Path, str] = {}
        steps = 0
        if recipe.tune:
            steps, failures = _run(*found[0], watcher, jobs)
            trials = chosen_of(recipe, collect(*found[0], failures))
            recipe = tuned(recipe, trials)
        study, layout = planned(recipe, root, **opening)
        if not steps and not failures and (kept := _kept(root, layout, show_text)) is not None:
            return kept
        more, failed = _run(study, layout, watcher, jobs)
        return _write_up(
            study, layout, failed, trials, (*failures.values(),), steps + more, show_text
        )


def _run(study: Study, layout: Layout, watcher: Watcher, jobs: int) -> tuple[int, dict[Path, str]]:
    """Do what is not done; return how many steps that were, and why some have failed."""
    left = [step for step in layout.steps if not step.done]
    if not left:
        return 0, {}
    _write_json(study.root / "recipe.json", _resolved(study))
    failures = run_steps(left, study, watcher, jobs)
    if layout.target.folder in failures:
        raise UnlearnError(failures[layout.target.folder])
    return len(left), failures


def _folder(output: str | Path, *, overwrite: bool) -> Path:
    """Return the output folder, refusing one that holds something else."""
    root = Path(output).expanduser().absolute()
    return check_output(output, overwrite=overwrite or (root / "recipe.json").is_file())


def _clear(root: Path) -> None:
    """Take away what a comparison has left in a folder, and nothing else."""
    for name in _OURS:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in _WRITTEN:
        (root / name).unlink(missing_ok=True)


def _resolved(study: Study) -> dict[str, Any]:
    return {"recipe": study.recipe.model_dump(), "inputs": dict(study.inputs)}


def _kept(root: Path, layout: Layout, show_text: bool) -> Compared | None:
    """Return what was written before, if it is of these steps, and shows as much."""
    try:
        content = json.loads((root / _RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = all((root / name).is_file() for name in _WRITTEN)
    if not whole or content.get("of") != layout.digest or not all(s.done for s in layout.steps):
        return None
    if content.get("show_text") is not show_text:
        return None
    table = content["table"]
    return Compared(root, table["heads"], table["rows"], content["said"], (), 0)


def _write_up(
    study: Study,
    layout: Layout,
    failures: Mapping[Path, str],
    trials: Sequence[Trial] = (),
    before: Sequence[str] = (),
    steps: int = 0,
    show_text: bool = False,
) -> Compared:
    """Write every file that sums the comparison up."""
    from unlearn_eval.comparison.contests import CONTESTED, contest
    from unlearn_eval.comparison.words import advice
    from unlearn_eval.report.comparison import as_csv, comparison_page, shown_measures

    found = collect(study, layout, failures)
    records = records_of(layout)
    rows = lines(found)
    contests = [c for measure in CONTESTED if (c := contest(found, measure)) is not None]
    measures = shown_measures(rows)
    verdicts = ["verdicts"] if found.policy else []
    ruled = {line.name: [line.ruled] if found.policy else [] for line in rows}
    heads = ["method", *verdicts, *(m.head for m in measures)]
    whole = [[x.name, *ruled[x.name], *(x.text(m.name) for m in measures)] for x in rows]
    means = [
        [x.name, *ruled[x.name], *(m.text(x.mean.get(m.name)) for m in measures)] for x in rows
    ]
    said = advice(found, rows)
    content = {
        "schema": 3,
        "of": layout.digest,
        "show_text": show_text,
        **_resolved(study),
        "table": {"heads": heads, "rows": means},
        "said": said,
        "tuning": [asdict(trial) for trial in trials],
        "price": dict(found.price),
        "lines": [asdict(line) for line in rows],
        "contests": [
            {
                "measure": c.measure,
                "methods": list(c.methods),
                "ranks": c.ranking.ranks.tolist(),
                "friedman_p": _finite(c.ranking.p_value),
                "critical_difference": c.ranking.difference,
                "cases": c.ranking.cases,
                "pairs": [asdict(pair) for pair in c.pairs],
            }
            for c in contests
        ],
        "before": [asdict(o) for o in found.before],
        "references": [asdict(o) for o in found.references],
        "cells": [asdict(o) for o in found.outcomes],
    }
    _write_text(study.root / "comparison.csv", as_csv(found))
    _write_text(study.root / "comparison.md", _markdown(heads, whole))
    page = comparison_page(
        found,
        rows,
        contests,
        _tried(trials),
        details(study, layout),
        records,
        texts_of(study) if show_text else None,
    )
    _write_text(study.root / "report.html", page)
    write_records(records, study.root / "records.parquet")
    _write_json(study.root / _RESULT, content)  # last: it says that the others are there
    return Compared(
        study.root, heads, means, said, tuple(dict.fromkeys([*before, *failures.values()])), steps
    )


def _tried(trials: Sequence[Trial]) -> list[Tuned]:
    """Sum up how each method was tuned, for the page."""
    return [
        Tuned(
            trial.method,
            sum(other.method == trial.method for other in trials),
            ", ".join(f"{key} = {value}" for key, value in trial.options.items()) or "defaults",
        )
        for trial in trials
        if trial.chosen
    ]


def _finite(value: float) -> float | None:
    return value if value == value else None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    with staged_file(path) as stage:
        stage.write_text(text, encoding="utf-8")


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)
