"""Tune in rounds: one trial of every method in each, the next one in the light of those before.

The first trial of a method is as the recipe gives it; each further one is what TPE suggests after
those before (see `_spaces`). Within a round trials run side by side. What is suggested follows from
what was found, so that a comparison that was killed comes to the same trials again, and finds what
it has done of them.

A trial is given up between unlearning and its audit if it cannot become the best: the loss on the
records to keep is known by then, on a sample, and an audit takes longer than most methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearn.apps.compare.collect import collect
from unlearn.apps.compare.layout import Cell, Layout, Step, lay_out
from unlearn.apps.compare.recipe import CompareRecipe, MethodSettings
from unlearn.apps.compare.study import Study
from unlearn.apps.compare.tuning.memo import Memo
from unlearn.apps.compare.tuning.spaces import Tried, dimensions, need_optuna, size, suggest
from unlearn.apps.compare.tuning.trials import (
    TuningTrial,
    check_validation,
    chosen_of,
    hopeless,
    own_values,
    row_of,
    trial_name,
    tuning_recipe,
)
from unlearn.config import without_auto
from unlearn_eval.comparison import Comparison
from unlearn_eval.comparison.rest import allowed_rise

__all__ = ["Round", "Tuning"]


@dataclass(frozen=True)
class Round:
    """One trial of every row that has one left.

    Attributes:
        study: the comparison of all trials so far.
        layout: its steps.
        steps: those of this round.
        earlier: by folder of a step that unlearns, the trials of its row before.
    """

    study: Study
    layout: Layout
    steps: tuple[Step, ...]
    earlier: Mapping[Path, Sequence[TuningTrial]]

    def spared(self, step: Step) -> bool:
        """Say whether an audit need not be done, as what it would measure is hopeless."""
        before = self.earlier.get(step.parent)
        if step.kind != "audit" or before is None:
            return False
        rise = _rise(self.layout, step.parent)
        return rise is not None and hopeless(*rise, before)

    @property
    def waiting(self) -> list[Step]:
        """The steps that are still to be done."""
        return [step for step in self.steps if not step.done and not self.spared(step)]


def _rise(layout: Layout, folder: Path) -> tuple[float, float] | None:
    """Return what a step that unlearns has seen of the records to keep, and its standard error."""
    for cell in layout.cells:
        if cell.unlearn.folder == folder and cell.unlearn.done:
            rise = cell.unlearn.facts().get("rise") or {}
            if rise.get("error") is not None:
                return rise["mean"], rise["error"]
    return None


class Tuning:
    """The trials of a comparison, as they come.

    Args:
        recipe: a recipe with `tune`.
        root: the output folder.
        opening: `dtype` and `device` of `open_model`.

    Attributes:
        found: by row its trials so far.
        failures: by folder, why a step has failed; to be filled while rounds are run.

    Raises:
        OptionError: if the recipe has no `validation`.
    """

    def __init__(self, recipe: CompareRecipe, root: Path, opening: Mapping[str, Any]) -> None:
        check_validation(recipe)
        self._recipe = recipe
        self._root = root
        self._opening = opening
        self._rows = [settings for settings in recipe.methods if settings.search]
        self._memo = Memo(root)
        self._tried: dict[str, list[Mapping[str, Any]]] = {}
        self.found: dict[str, list[TuningTrial]] = {row_of(settings): [] for settings in self._rows}
        self.failures: dict[Path, str] = {}

    @property
    def chosen(self) -> list[TuningTrial]:
        """All trials, the best of each row chosen."""
        return [trial for trials in self.found.values() for trial in chosen_of(trials)]

    def rounds(self) -> Iterator[Round]:
        """Yield the rounds; who runs them comes back when a round is over.

        Yields:
            A round. What its steps have found is read when the next one is asked for.
        """
        assert self._recipe.tune is not None
        for number in range(self._recipe.tune.trials):
            new = {row_of(s): self._next(s) for s in self._rows}
            self._memo.keep()
            if not any(options is not None for options in new.values()):
                return
            self._tried = tried = {
                row: [trial.options for trial in trials] + [o for o in [new[row]] if o is not None]
                for row, trials in self.found.items()
            }
            study, layout = self._laid_out(tried)
            mine = {trial_name(row, number): row for row in self.found}
            cells = [cell for cell in layout.cells if cell.name in mine]
            yield Round(
                study,
                layout,
                (*layout.shared, *(step for cell in cells for step in cell.steps)),
                {cell.unlearn.folder: self.found[mine[cell.name]] for cell in cells},
            )
            self._read(tried, layout, collect(study, layout, self.failures))

    def whole(self) -> tuple[Study, Layout]:
        """Return all trials of the budget, those not known yet with the row's own options.

        What such a trial will be is decided by those before; its steps are none of theirs.
        """
        tried, unknown = {}, set()
        for settings in self._rows:
            row, total = row_of(settings), self._budget(settings)
            known = self._tried.get(row, [])
            tried[row] = known + [settings.options] * (total - len(known))
            unknown |= {trial_name(row, i) for i in range(len(known), total)}
        study, layout = self._laid_out(tried)
        cells = [_apart(cell) if cell.name in unknown else cell for cell in layout.cells]
        return study, replace(layout, cells=tuple(cells))

    def _laid_out(self, tried: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Study, Layout]:
        study = Study.of(tuning_recipe(self._recipe, tried), self._root, self._opening)
        return study, lay_out(study)

    def _budget(self, settings: MethodSettings) -> int:
        """Return how many trials a row has: no more than its space and its own options hold."""
        assert self._recipe.tune is not None
        trials, row = self._recipe.tune.trials, row_of(settings)
        points = size(dimensions(settings.search, {}, row))
        if points is None or points >= trials:  # own values cost an import of torch
            return trials
        own = own_values(self._recipe, settings)
        space = dimensions(settings.search, own, row)
        inside = all(dimension.place(own.get(dimension.key)) is not None for dimension in space)
        return min(trials, (size(space) or 0) + (not inside))

    def _next(self, settings: MethodSettings) -> dict[str, Any] | None:
        """Return the options of a row's next trial, None if its space holds no other."""
        assert self._recipe.tune is not None
        before = self.found[row_of(settings)]
        if not before:
            return dict(settings.options)
        question = [
            settings.model_dump(),
            self._recipe.finetune.options,
            self._recipe.tune.seed,
            [[dict(trial.options), trial.value, trial.pruned] for trial in before],
        ]
        point = self._memo.of(question, lambda: _suggested(self._recipe, settings, before))
        return None if point is None else {**settings.options, **point}

    def _read(
        self,
        tried: Mapping[str, Sequence[Mapping[str, Any]]],
        layout: Layout,
        comparison: Comparison,
    ) -> None:
        """Read what the last trial of each row has found."""
        outcomes = {outcome.method: outcome for outcome in comparison.outcomes}
        cells = {cell.name: cell for cell in layout.cells}
        for row, options in tried.items():
            before, number = self.found[row], len(options) - 1
            if len(before) == len(options):
                continue
            name = trial_name(row, number)
            outcome, cell = outcomes[name], cells[name]
            allowed = allowed_rise(comparison.references)
            trial = TuningTrial(row, options[number], None, None, allowed=allowed)
            if not outcome.error and cell.audit.done:
                numbers = outcome.numbers
                trial = replace(trial, gap=numbers.get("gap"), rise=numbers.get("rise"))
            elif not outcome.error and (rise := _rise(layout, cell.unlearn.folder)):
                trial = replace(trial, rise=rise[0], pruned=hopeless(*rise, before))
            self.found[row] = [*before, trial]


def _apart(cell: Cell) -> Cell:
    """Return a cell with steps of its own, although another has the same settings."""
    unlearn = replace(cell.unlearn, settings={**cell.unlearn.settings, "unknown": cell.name})
    audit = replace(
        cell.audit,
        parent=unlearn.folder,
        settings={**cell.audit.settings, "of": unlearn.digest},
    )
    return replace(cell, unlearn=unlearn, audit=audit)


def _suggested(
    recipe: CompareRecipe, settings: MethodSettings, before: Sequence[TuningTrial]
) -> dict[str, Any] | None:
    """Ask for a point that is none of those before."""
    assert recipe.tune is not None
    need_optuna()
    own = own_values(recipe, settings)
    space = dimensions(settings.search, own, row_of(settings))
    keys = [dimension.key for dimension in space]
    tried = []
    for trial in before:
        values = own | without_auto(trial.options)
        point = {key: values.get(key) for key in keys}
        tried.append(Tried(point, trial.value, trial.pruned))
    return suggest(space, tried, f"{recipe.tune.seed} {row_of(settings)} {len(before)}")
