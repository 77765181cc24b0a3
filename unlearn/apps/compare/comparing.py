"""Run a comparison from a recipe, and write what came of it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from unlearn.apps.compare.results import (
    WRITTEN,
    ComparisonResult,
    Finished,
    Show,
    TuningResult,
    recipe_json,
    write_json,
    write_up,
    written_before,
)
from unlearn.apps.compare.rounds import Round, Tuning
from unlearn.apps.compare.study import Study
from unlearn.apps.compare.tuning.memo import MEMORY
from unlearn.apps.compare.tuning.trials import tuned
from unlearn.errors import UnlearnError
from unlearn.files import check_output

if TYPE_CHECKING:
    pass

__all__ = ["Stage", "compare", "planned", "stages"]

_OURS = ("shared", "cells")


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


NOTHING_SHOWN = Show()
"""Numbers, and names of records under the user's key."""


def compare(
    recipe: CompareRecipe,
    output: str | Path,
    *,
    workers: Workers = IN_THIS_PROCESS,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    show: Show = NOTHING_SHOWN,
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
        show: what of the records goes into the page beside numbers and names under the user's key;
            no step is done again for it.
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
        write_json(root / "recipe.json", recipe_json(recipe, first_study))
        execution = _Execution(run, watcher or _Silent(), tuple(report_to))
        tuning = _tuned(recipe, root, opening, execution)
        study, layout = planned(tuning.recipe, root, **opening)
        if not tuning.steps and not tuning.failures:
            written = written_before(root, layout, recipe, show)
            if written is not None:
                return written
        waiting = [step for step in layout.steps if not step.done]
        steps, failures = execution.run(study, layout, waiting)
        return write_up(Finished(recipe, study, layout, failures, tuning, steps), show)


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


def _tuned(
    recipe: CompareRecipe, root: Path, opening: Mapping[str, Any], execution: _Execution
) -> TuningResult:
    """Run the rounds of trials that a recipe asks for, and take the best options."""
    if not recipe.tune:
        return TuningResult(recipe)
    tuning = Tuning(recipe, root, opening)
    steps = 0
    for round_ in tuning.rounds():
        begun, failures = execution.run(round_.study, round_.layout, round_.waiting, round_.spared)
        steps += begun
        tuning.failures |= failures
    trials = tuning.chosen
    return TuningResult(tuned(recipe, trials), trials, tuning.failures, steps)


def _folder(output: str | Path, *, overwrite: bool) -> Path:
    """Return the output folder, refusing one that holds something else."""
    root = Path(output).expanduser().absolute()
    return check_output(output, overwrite=overwrite or (root / "recipe.json").is_file())


def _clear(root: Path) -> None:
    """Take away what a comparison has left in a folder, and nothing else."""
    for name in _OURS:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in (*WRITTEN, MEMORY):
        (root / name).unlink(missing_ok=True)
