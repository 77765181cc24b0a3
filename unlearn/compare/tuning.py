"""Tune every method with the same budget, on records that no reported cell forgets.

The first trial of a method is as the recipe gives it; each further one is what TPE suggests after
those before (see `_spaces`). Trials go in rounds, one of every method in each: within a round they
run side by side, and what was suggested follows from what was found, so that a comparison that was
killed comes to the same trials again, and finds what it has done of them.

A trial is given up between unlearning and its audit if it cannot become the best: the loss on the
records to keep is known by then, on a sample, and an audit takes longer than most methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearn._recipes import CompareRecipe, MethodSettings
from unlearn.compare._memo import Memo
from unlearn.compare._spaces import Tried, dimensions, need_optuna, size, suggest
from unlearn.compare.collect import collect
from unlearn.compare.data import Pool
from unlearn.compare.layout import Layout, Step, lay_out
from unlearn.compare.study import Study
from unlearn.errors import OptionError, SelectionError
from unlearn.methods import get_method, resolve
from unlearn.options import USUAL_RATE, without_auto
from unlearn_eval.comparison import Comparison
from unlearn_eval.comparison.lines import DAMAGE

__all__ = [
    "Round",
    "Trial",
    "Tuning",
    "check_tuning",
    "chosen_of",
    "hopeless",
    "own_values",
    "tuned",
    "tuning_recipe",
]

_SURE = 2.0
"""Standard errors that a rise must be beyond what is allowed, for a trial to be given up."""


@dataclass(frozen=True)
class Trial:
    """One setting of a method, and what came of it.

    Attributes:
        method: name of the row.
        options: what was tried.
        gap: distance of the attacker's AUC from the references; None where there is no audit.
        rise: of the loss on the records to keep; None where the trial failed. Of a pruned trial it
            is that of a sample.
        chosen: whether the reported cells have these options.
        pruned: whether it was given up before its audit.
    """

    method: str
    options: Mapping[str, Any]
    gap: float | None
    rise: float | None
    chosen: bool = False
    pruned: bool = False

    @property
    def value(self) -> float | None:
        """How bad it is, None where it failed.

        The gap, which is 1 at most, of a trial that raised the loss on the records to keep by no
        more than `DAMAGE`; 1 + rise of any other.
        """
        if self.rise is None or (self.gap is None and not self.pruned):
            return None
        return self.gap if self.rise <= DAMAGE and self.gap is not None else 1 + self.rise


def _row(settings: MethodSettings) -> str:
    return settings.name or settings.method


def _name(row: str, number: int) -> str:
    return f"{row} trial {number}"


def tuning_recipe(
    recipe: CompareRecipe, tried: Mapping[str, Sequence[Mapping[str, Any]]]
) -> CompareRecipe:
    """Return the comparison of trials: a row a trial, on the validation records.

    Args:
        recipe: a recipe with `tune`.
        tried: by row the options of its trials.

    Returns:
        A recipe without `tune`. The adapter under study is that of the recipe.
    """
    assert recipe.tune is not None
    methods = {_row(settings): settings.method for settings in recipe.methods}
    rows = [
        MethodSettings(name=_name(row, i), method=methods[row], options=dict(options))
        for row, several in tried.items()
        for i, options in enumerate(several)
    ]
    update = {
        "forget": [recipe.tune.forget],
        "seeds": (recipe.tune.seed,),
        "robustness": (),
        "policy": None,
        "methods": rows,
        "tune": None,
    }
    return recipe.model_copy(update=update)


def hopeless(rise: float, error: float, earlier: Sequence[Trial]) -> bool:
    """Say whether a trial cannot become the best any more, going by its rise alone.

    It cannot if another kept the rest and it does not, or if another has damaged the rest less:
    rise − 2 · error > max(`DAMAGE`, least value before − 1).

    Args:
        rise: of the loss on a sample of the records to keep.
        error: its standard error.
        earlier: trials of the same row before it.

    Returns:
        Whether its audit may be spared. False for a row's first trial.
    """
    values = [trial.value for trial in earlier if trial.value is not None]
    return bool(values) and rise - _SURE * error > max(DAMAGE, min(values) - 1)


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
    earlier: Mapping[Path, Sequence[Trial]]

    def spared(self, step: Step) -> bool:
        """Say whether an audit need not be done, as what it would measure is hopeless."""
        before = self.earlier.get(step.parent)
        if step.kind != "audit" or before is None:
            return False
        rise = _rise(self.layout, step.parent)
        return rise is not None and hopeless(*rise, before)

    @property
    def left(self) -> list[Step]:
        """The steps that are still to be done."""
        return [step for step in self.steps if not step.done and not self.spared(step)]


def _rise(layout: Layout, folder: Path) -> tuple[float, float] | None:
    """Return what a step that unlearns has seen of the records to keep, and its standard error."""
    for cell in layout.cells:
        if cell.unlearn.folder == folder and cell.unlearn.done:
            found = cell.unlearn.facts().get("rise") or {}
            if found.get("error") is not None:
                return found["mean"], found["error"]
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
    """

    def __init__(self, recipe: CompareRecipe, root: Path, opening: Mapping[str, Any]) -> None:
        self._recipe = recipe
        self._root = root
        self._opening = opening
        self._rows = [settings for settings in recipe.methods if settings.search]
        self._memo = Memo(root)
        self.found: dict[str, list[Trial]] = {_row(settings): [] for settings in self._rows}
        self.failures: dict[Path, str] = {}

    @property
    def chosen(self) -> list[Trial]:
        """All trials, the best of each row chosen."""
        return [trial for trials in self.found.values() for trial in chosen_of(trials)]

    def rounds(self) -> Iterator[Round]:
        """Yield the rounds; who runs them comes back when a round is over.

        Yields:
            A round. What its steps have found is read when the next one is asked for.
        """
        assert self._recipe.tune is not None
        for number in range(self._recipe.tune.trials):
            new = {_row(s): self._next(s) for s in self._rows}
            self._memo.keep()
            if not any(options is not None for options in new.values()):
                return
            tried = {
                row: [trial.options for trial in trials] + [o for o in [new[row]] if o is not None]
                for row, trials in self.found.items()
            }
            study, layout = self._laid_out(tried)
            mine = {_name(row, number): row for row in self.found}
            cells = [cell for cell in layout.cells if cell.name in mine]
            shared = layout.steps[: len(layout.steps) - sum(len(c.steps) for c in layout.cells)]
            yield Round(
                study,
                layout,
                (*shared, *(step for cell in cells for step in cell.steps)),
                {cell.unlearn.folder: self.found[mine[cell.name]] for cell in cells},
            )
            self._read(tried, layout, collect(study, layout, self.failures))

    def whole(self) -> tuple[Study, Layout]:
        """Return all trials of the budget; those not known yet are as the recipe gives the row."""
        assert self._recipe.tune is not None
        tried = {}
        for settings in self._rows:
            known = [trial.options for trial in self.found[_row(settings)]]
            total = self._budget(settings)
            tried[_row(settings)] = known + [settings.options] * (total - len(known))
        return self._laid_out(tried)

    def _laid_out(self, tried: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Study, Layout]:
        study = Study.of(tuning_recipe(self._recipe, tried), self._root, self._opening)
        return study, lay_out(study)

    def _budget(self, settings: MethodSettings) -> int:
        """Return how many trials a row has: no more than its space and its own options hold."""
        assert self._recipe.tune is not None
        points = size(dimensions(settings.search, {}, _row(settings)))
        return (
            self._recipe.tune.trials
            if points is None
            else min(self._recipe.tune.trials, points + 1)
        )

    def _next(self, settings: MethodSettings) -> dict[str, Any] | None:
        """Return the options of a row's next trial, None if its space holds no other."""
        assert self._recipe.tune is not None
        before = self.found[_row(settings)]
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
            name = _name(row, number)
            outcome, cell = outcomes[name], cells[name]
            trial = Trial(row, options[number], None, None)
            if not outcome.error and cell.audit.done:
                numbers = outcome.numbers
                trial = replace(trial, gap=numbers.get("gap"), rise=numbers.get("rise"))
            elif not outcome.error and (seen := _rise(layout, cell.unlearn.folder)):
                trial = replace(trial, rise=seen[0], pruned=hopeless(*seen, before))
            self.found[row] = [*before, trial]


def _suggested(
    recipe: CompareRecipe, settings: MethodSettings, before: Sequence[Trial]
) -> dict[str, Any] | None:
    """Ask for a point that is none of those before."""
    assert recipe.tune is not None
    need_optuna()
    own = own_values(recipe, settings)
    space = dimensions(settings.search, own, _row(settings))
    keys = [dimension.key for dimension in space]
    tried = []
    for trial in before:
        values = own | without_auto(trial.options)
        point = {key: values.get(key) for key in keys}
        tried.append(Tried(point, trial.value, trial.pruned))
    return suggest(space, tried, f"{recipe.tune.seed} {_row(settings)} {len(before)}")


def own_values(recipe: CompareRecipe, settings: MethodSettings) -> dict[str, Any]:
    """Return the value of every option that a row has without being tuned.

    Args:
        recipe: the recipe.
        settings: the row.

    Returns:
        By option; None where it is decided when the records are known.
    """
    method = get_method(settings.method)
    found = resolve(method, settings.options).as_dict()
    if found.get("learning_rate") is None:
        taught = without_auto(recipe.finetune.options).get("learning_rate", USUAL_RATE)
        found["learning_rate"] = method.rate * float(taught)
    return found


def chosen_of(trials: Sequence[Trial]) -> list[Trial]:
    """Say which trial of a row is best.

    Of those that raised the loss on the records to keep by no more than `DAMAGE`, the one that
    comes closest to the references; where all raised it by more, the one that raised it least;
    where all failed, the first, which is the recipe's own. A pruned trial is not taken: another was
    better when it was given up.

    Args:
        trials: of one row, in order.

    Returns:
        The same, one of them chosen.
    """

    def rank(i: int) -> tuple[bool, float]:
        value = None if trials[i].pruned else trials[i].value
        return (value is None, value or 0.0)

    best = min(range(len(trials)), key=rank, default=None)
    return [replace(trial, chosen=i == best) for i, trial in enumerate(trials)]


def tuned(recipe: CompareRecipe, trials: Sequence[Trial]) -> CompareRecipe:
    """Return a recipe with the options that were found best.

    Args:
        recipe: a recipe with `tune`.
        trials: all trials, one of each row with a search space chosen.

    Returns:
        The recipe of the reported cells, without `tune`.
    """
    best = {trial.method: trial.options for trial in trials if trial.chosen}
    methods = [
        settings.model_copy(
            update={"options": dict(best.get(_row(settings), settings.options)), "search": {}}
        )
        for settings in recipe.methods
    ]
    return recipe.model_copy(update={"methods": methods, "tune": None})


def check_tuning(recipe: CompareRecipe, pool: Pool) -> None:
    """Refuse to tune on what is reported, and search spaces that are none.

    Args:
        recipe: the recipe.
        pool: its records.

    Raises:
        OptionError: if there is a search space and nothing says to tune, or the other way round, or
            a space holds what the method does not take; without Optuna.
        SelectionError: if a record that is reported on would be tuned on.
    """
    spaces = [settings for settings in recipe.methods if settings.search]
    if recipe.tune is None:
        if spaces:
            raise OptionError(
                f"method {_row(spaces[0])} has a search space, and nothing says to tune: give "
                "tune: {trials: …, forget: …}, records of train that no set forgets"
            )
        return
    if not spaces:
        raise OptionError("tune: no method has a search space; give one its search: {OPTION: […]}")
    for settings in spaces:
        for dimension in dimensions(settings.search, {}, _row(settings)):
            for value in dimension.values or (dimension.low, dimension.high):
                options = {**settings.options, dimension.key: value}
                resolve(get_method(settings.method), options)
    need_optuna()
    mine = set(pool.positions(recipe.tune.forget))
    for selector in recipe.forget_sets:
        shared = mine & set(pool.positions(selector))
        if shared:
            raise SelectionError(
                f"tune: forget {recipe.tune.forget!r} shares {len(shared)} record(s) with the "
                f"reported set {selector!r}; methods must not be tuned on what they are judged by"
            )
