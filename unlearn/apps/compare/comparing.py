"""Run a comparison from a recipe, and write what came of it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn.apps.compare.collect import MIXED, collect
from unlearn.apps.compare.details import details, records_of, texts_of, write_records
from unlearn.apps.compare.execution.queue import Progress, Runner, Watcher
from unlearn.apps.compare.execution.runner import (
    IN_THIS_PROCESS,
    Workers,
    check_workers,
    held,
    run_steps,
    runner,
)
from unlearn.apps.compare.layout import Layout, Step, lay_out
from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.apps.compare.rounds import Round, Tuning
from unlearn.apps.compare.study import Study
from unlearn.apps.compare.tuning.memo import MEMORY
from unlearn.apps.compare.tuning.trials import TuningTrial, row_of, tuned
from unlearn.errors import UnlearnError
from unlearn.files import check_output, staged_file
from unlearn_eval.comparison import Comparison, TableLine, Tuned

if TYPE_CHECKING:
    from unlearn_eval.comparison.contests import Standings

__all__ = ["ComparisonResult", "Stage", "compare", "planned", "stages"]

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
    trials = []
    if recipe.tune:
        tuning = Tuning(recipe, Path(output).expanduser().absolute(), opening)
        waiting = any(round_.waiting for round_ in _over(tuning))
        trials.append(Stage("tuning: ", *tuning.whole(), not waiting))
        if not waiting:
            recipe = tuned(recipe, tuning.chosen)
    study, layout = planned(recipe, output, **opening)
    return [*trials, Stage("", study, layout, all(step.done for step in layout.steps))]


def _over(tuning: Tuning) -> Iterator[Round]:
    """Yield the rounds of trials that are over, and the first that is not."""
    for round_ in tuning.rounds():
        yield round_
        if round_.waiting:
            return


def compare(
    recipe: CompareRecipe,
    output: str | Path,
    *,
    workers: Workers = IN_THIS_PROCESS,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    show_text: bool = False,
    report_to: Sequence[str] = (),
    **opening: Any,
) -> ComparisonResult:
    """Run methods side by side on the same records, beside retrained references.

    What the folder holds already is not done again: a comparison that was killed goes on where it
    was, and one whose recipe was changed does what the change asks for. A cell that fails is
    reported and does not stop the rest.

    Args:
        recipe: the recipe.
        output: folder for everything.
        workers: what does the steps.
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
    check_workers(workers)
    root = _folder(output, overwrite=overwrite)
    first_study = _checked(recipe, root, opening, overwrite=overwrite)
    root.mkdir(parents=True, exist_ok=True)
    with held(root), runner(workers) as run:
        if overwrite:
            _clear(root)
        _write_json(root / "recipe.json", _recipe_json(recipe, first_study))
        execution = _Execution(run, watcher or _Silent(), tuple(report_to))
        tuning = _tuned(recipe, root, opening, execution)
        study, layout = planned(tuning.recipe, root, **opening)
        if not tuning.steps and not tuning.failures:
            written = _written_before(root, layout, recipe, show_text)
            if written is not None:
                return written
        waiting = [step for step in layout.steps if not step.done]
        steps, failures = execution.run(study, layout, waiting)
        return _write_up(_Finished(recipe, study, layout, failures, tuning, steps), show_text)


def _checked(
    recipe: CompareRecipe, root: Path, opening: Mapping[str, Any], *, overwrite: bool
) -> Study:
    """Return what the first stage is about, once it is known that what is to be done can be."""
    plan = stages(recipe, root, **opening)
    if overwrite or not all(stage.done for stage in plan):
        from unlearn.apps.compare.execution.work import check

        check(planned(recipe, root, **opening)[0])  # before anything is written
        check(plan[0].study)
    return plan[0].study


@dataclass(frozen=True)
class _Execution:
    """How steps are run, and who is told of them."""

    runner: Runner
    watcher: Watcher
    report_to: tuple[str, ...]

    def run(
        self,
        study: Study,
        layout: Layout,
        waiting: Sequence[Step],
        spared: Callable[[Step], bool] = lambda _: False,
    ) -> tuple[int, dict[Path, str]]:
        """Do the waiting steps; return how many were begun, and why some have failed."""
        if not waiting:
            return 0, {}
        announced = replace(study, report_to=self.report_to)
        if expects := getattr(self.watcher, "expects", None):  # a watcher need not ask
            expects(len(waiting))
        failures = run_steps(waiting, announced, self.watcher, self.runner, spared)
        if layout.target.folder in failures:
            raise UnlearnError(failures[layout.target.folder])
        return sum(step.done or step.folder in failures for step in waiting), failures


@dataclass(frozen=True)
class _TuningResult:
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


def _tuned(
    recipe: CompareRecipe, root: Path, opening: Mapping[str, Any], execution: _Execution
) -> _TuningResult:
    """Run the rounds of trials that a recipe asks for, and take the best options."""
    if not recipe.tune:
        return _TuningResult(recipe)
    tuning = Tuning(recipe, root, opening)
    steps = 0
    for round_ in tuning.rounds():
        begun, failures = execution.run(round_.study, round_.layout, round_.waiting, round_.spared)
        steps += begun
        tuning.failures |= failures
    trials = tuning.chosen
    return _TuningResult(tuned(recipe, trials), trials, tuning.failures, steps)


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


def _recipe_json(recipe: CompareRecipe, study: Study) -> dict[str, Any]:
    """Return the recipe as it was given, and what its inputs held."""
    return {"recipe": recipe.model_dump(mode="json"), "inputs": dict(study.inputs)}


def _written_before(
    root: Path, layout: Layout, recipe: CompareRecipe, show_text: bool
) -> ComparisonResult | None:
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
    tuning = _summed_up([TuningTrial(**trial) for trial in content["tuning"]])
    return ComparisonResult(root, table["heads"], table["rows"], content["said"], (), 0, tuning)


@dataclass(frozen=True)
class _Finished:
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
    tuning: _TuningResult
    steps: int


def _write_up(finished: _Finished, show_text: bool) -> ComparisonResult:
    """Write every file that sums the comparison up."""
    from unlearn_eval.comparison.contests import standings
    from unlearn_eval.report.comparison.page import as_csv, comparison_page
    from unlearn_eval.report.comparison.words import advice

    study, layout, trials = finished.study, finished.layout, finished.tuning.trials
    comparison = collect(study, layout, finished.failures)
    ranked = standings(comparison)
    table = _table(comparison, ranked.lines)
    sentences = [*advice(comparison, ranked.lines), *_warnings(comparison)]
    records = records_of(layout)
    page = comparison_page(
        comparison,
        ranked,
        _summed_up(trials),
        details(study, layout, comparison.outcomes),
        records,
        texts_of(study) if show_text else None,
        own_judge=finished.recipe.looked_at == finished.recipe.holdout,
    )
    _write_text(study.root / "comparison.csv", as_csv(comparison))
    _write_text(study.root / "comparison.md", _markdown(table.heads, table.with_spread))
    _write_text(study.root / "report.html", page)
    write_records(records, study.root / "records.parquet")
    content = {
        "schema": 4,
        "of": layout.digest,
        "show_text": show_text,
        **_recipe_json(finished.recipe, study),
        "options": {row_of(settings): settings.options for settings in study.recipe.methods},
        "table": {"heads": table.heads, "rows": table.means},
        "said": sentences,
        "tuning": [asdict(trial) for trial in trials],
        **_numbers(comparison, ranked),
    }
    _write_json(study.root / _RESULT, content)  # last: it says that the others are there
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


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    with staged_file(path) as stage:
        stage.write_text(text, encoding="utf-8")


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)
