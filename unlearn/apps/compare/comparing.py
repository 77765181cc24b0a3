"""Run a comparison from a recipe, and write what came of it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unlearn.apps.compare.collect import MIXED, collect
from unlearn.apps.compare.details import details, records_of, texts_of, write_records
from unlearn.apps.compare.execution.queue import Progress, Runner, Watcher
from unlearn.apps.compare.execution.runner import check_engine, held, run_steps, runner
from unlearn.apps.compare.layout import Layout, Step, lay_out
from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.apps.compare.rounds import Round, Tuning
from unlearn.apps.compare.study import Study
from unlearn.apps.compare.tuning.memo import MEMORY
from unlearn.apps.compare.tuning.trials import Trial, row_of, tuned
from unlearn.errors import UnlearnError
from unlearn.files import check_output, staged_file
from unlearn_eval.comparison import Comparison, Tuned, lines

__all__ = ["Compared", "Stage", "compare", "planned", "stages"]

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
        tuning: how methods were tuned; empty where they were not.
    """

    folder: Path
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    said: Sequence[str]
    failures: Sequence[str]
    steps: int
    tuning: Sequence[Tuned] = ()


@dataclass(frozen=True)
class Stage:
    """One of the two parts of a comparison: the trials, or the cells.

    Attributes:
        title: beginning of its title.
        study: what it is about.
        layout: its steps.
        done: whether nothing of it is left to do.
    """

    title: str
    study: Study
    layout: Layout
    done: bool


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


def stages(recipe: CompareRecipe, output: str | Path, **opening: Any) -> list[Stage]:
    """Return what a comparison consists of, one after the other: the trials, if any, and the cells.

    Args:
        recipe: the recipe.
        output: the folder where it will be, or is.
        **opening: `dtype` and `device` of `open_model`.

    Returns:
        The stages. As long as trials are left, those that are not known yet and the cells are those
        of the recipe's own options.

    Raises:
        UnlearnError: if the recipe cannot work.
    """
    found = []
    if recipe.tune:
        tuning = Tuning(recipe, Path(output).expanduser().absolute(), opening)
        left = any(round_.left for round_ in _over(tuning))
        found.append(Stage("tuning: ", *tuning.whole(), not left))
        if not left:
            recipe = tuned(recipe, tuning.chosen)
    study, layout = planned(recipe, output, **opening)
    return [*found, Stage("", study, layout, all(step.done for step in layout.steps))]


def _over(tuning: Tuning) -> Iterator[Round]:
    """Yield the rounds of trials that are over, and the first that is not."""
    for round_ in tuning.rounds():
        yield round_
        if round_.left:
            return


def compare(
    recipe: CompareRecipe,
    output: str | Path,
    *,
    jobs: int = 1,
    engine: str = "local",
    address: str | None = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    show_text: bool = False,
    report_to: Sequence[str] = (),
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
        engine: what does the steps, one of `running.ENGINES`.
        address: of a Ray cluster to join, instead of one of this machine's.
        overwrite: begin anew, whatever the folder holds.
        watcher: told what happens.
        show_text: put the text of records into the page, which otherwise holds ids and numbers; no
            step is done again for it.
        report_to: trackers that are told of training runs, see `unlearn.training.trackers`.
        **opening: `dtype` and `device` of `open_model`.

    Returns:
        The table, and where everything is.

    Raises:
        UnlearnError: for any input that cannot be used; nothing is trained then. Also if the
            adapter under study cannot be trained.
    """
    check_engine(engine, address)
    root = _folder(output, overwrite=overwrite)
    found = stages(recipe, root, **opening)
    if overwrite or not all(stage.done for stage in found):
        from unlearn.apps.compare.execution.work import check

        check(planned(recipe, root, **opening)[0])  # before anything is written
        check(found[0].study)
    root.mkdir(parents=True, exist_ok=True)
    with held(root), runner(engine, jobs, address) as run:
        if overwrite:
            _clear(root)
        _write_json(root / "recipe.json", _asked(recipe, found[0].study))
        asked = recipe
        watcher = watcher or _Silent()
        trials: list[Trial] = []
        told = tuple(report_to)
        failures: dict[Path, str] = {}
        steps = 0
        if recipe.tune:
            tuning = Tuning(recipe, root, opening)
            for round_ in tuning.rounds():
                begun, failed = _run(
                    replace(round_.study, report_to=told),
                    round_.layout,
                    watcher,
                    run,
                    round_.left,
                    round_.spared,
                )
                steps += begun
                tuning.failures |= failed
            failures, trials = tuning.failures, tuning.chosen
            recipe = tuned(recipe, trials)
        study, layout = planned(recipe, root, **opening)
        same = not steps and not failures
        if same and (kept := _kept(root, layout, asked, show_text)) is not None:
            return kept
        left = [step for step in layout.steps if not step.done]
        more, failed = _run(replace(study, report_to=told), layout, watcher, run, left)
        return _write_up(
            study, layout, asked, failed, trials, (*failures.values(),), steps + more, show_text
        )


def _run(
    study: Study,
    layout: Layout,
    watcher: Watcher,
    run: Runner,
    left: Sequence[Step],
    spared: Callable[[Step], bool] = lambda _: False,
) -> tuple[int, dict[Path, str]]:
    """Do what is left; return how many steps were begun, and why some have failed."""
    if not left:
        return 0, {}
    failures = run_steps(left, study, watcher, run, spared)
    if layout.target.folder in failures:
        raise UnlearnError(failures[layout.target.folder])
    return sum(step.done or step.folder in failures for step in left), failures


def _folder(output: str | Path, *, overwrite: bool) -> Path:
    """Return the output folder, refusing one that holds something else."""
    root = Path(output).expanduser().absolute()
    return check_output(output, overwrite=overwrite or (root / "recipe.json").is_file())


def _clear(root: Path) -> None:
    """Take away what a comparison has left in a folder, and nothing else."""
    for name in _OURS:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in (*_WRITTEN, MEMORY):
        (root / name).unlink(missing_ok=True)


def _asked(recipe: CompareRecipe, study: Study) -> dict[str, Any]:
    """Return the recipe as it was given, and what its inputs held."""
    return {"recipe": recipe.model_dump(mode="json"), "inputs": dict(study.inputs)}


def _kept(root: Path, layout: Layout, recipe: CompareRecipe, show_text: bool) -> Compared | None:
    """Return what was written before, if it is of this recipe and its steps, and shows as much."""
    try:
        content = json.loads((root / _RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = all((root / name).is_file() for name in _WRITTEN)
    if not whole or content.get("of") != layout.digest or not all(s.done for s in layout.steps):
        return None
    if content.get("recipe") != recipe.model_dump(mode="json"):  # the budget of tuning, names
        return None
    if content.get("show_text") is not show_text:
        return None
    table = content["table"]
    tuning = _tried([Trial(**trial) for trial in content["tuning"]])
    return Compared(root, table["heads"], table["rows"], content["said"], (), 0, tuning)


def _write_up(
    study: Study,
    layout: Layout,
    recipe: CompareRecipe,
    failures: Mapping[Path, str],
    trials: Sequence[Trial] = (),
    before: Sequence[str] = (),
    steps: int = 0,
    show_text: bool = False,
) -> Compared:
    """Write every file that sums the comparison up."""
    from unlearn_eval.comparison.contests import CONTESTED, contest
    from unlearn_eval.report.comparison.page import as_csv, comparison_page, shown_measures
    from unlearn_eval.report.comparison.words import advice

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
    said = [*advice(found, rows), *_warned(found)]
    content = {
        "schema": 4,
        "of": layout.digest,
        "show_text": show_text,
        **_asked(recipe, study),
        "options": {row_of(settings): settings.options for settings in study.recipe.methods},
        "table": {"heads": heads, "rows": means},
        "said": said,
        "tuning": [asdict(trial) for trial in trials],
        "setting": dict(found.setting),
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
        details(study, layout, found.outcomes),
        records,
        texts_of(study) if show_text else None,
        own_judge=recipe.looked_at == recipe.holdout,
    )
    _write_text(study.root / "report.html", page)
    write_records(records, study.root / "records.parquet")
    _write_json(study.root / _RESULT, content)  # last: it says that the others are there
    why = tuple(dict.fromkeys([*before, *failures.values()]))
    return Compared(study.root, heads, means, said, why, steps, _tried(trials))


def _warned(found: Comparison) -> list[str]:
    """Return what stands in the way of comparing the cells."""
    return [f"note: {MIXED}: {found.setting[MIXED]}"] if MIXED in found.setting else []


def _tried(trials: Sequence[Trial]) -> list[Tuned]:
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


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    with staged_file(path) as stage:
        stage.write_text(text, encoding="utf-8")


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)
