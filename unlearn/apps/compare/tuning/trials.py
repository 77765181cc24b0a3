"""Tune every method with the same budget, on records that no reported cell forgets.

Which settings a trial may have, what it is worth, which is best, and what a recipe must say for it;
`rounds` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unlearn.apps.compare.data import Pool
from unlearn.apps.compare.recipe import CompareRecipe, MethodSettings
from unlearn.apps.compare.shards import method_of
from unlearn.apps.compare.tuning.spaces import dimensions, need_optuna
from unlearn.config import without_auto
from unlearn.errors import OptionError, SelectionError
from unlearn.methods.registry import resolve
from unlearn.training.options import USUAL_RATE
from unlearn_eval.comparison.rest import DAMAGE

__all__ = [
    "TuningTrial",
    "check_tuning",
    "check_validation",
    "chosen_of",
    "hopeless",
    "own_values",
    "row_of",
    "trial_name",
    "tuned",
    "tuning_recipe",
]

_SURE = 2.0
"""Standard errors that a rise must be beyond what is allowed, for a trial to be given up."""


@dataclass(frozen=True)
class TuningTrial:
    """One setting of a method, and what came of it.

    Attributes:
        method: name of the row.
        options: what was tried.
        gap: distance of the attacker's AUC from the references; None where there is no audit.
        rise: of the loss on the records to keep; None where the trial failed. Of a pruned trial it
            is that of a sample.
        chosen: whether the reported cells have these options.
        pruned: whether it was given up before its audit.
        allowed: rise up to which it is not damaged: as far as references explain one.
    """

    method: str
    options: Mapping[str, Any]
    gap: float | None
    rise: float | None
    chosen: bool = False
    pruned: bool = False
    allowed: float = DAMAGE

    @property
    def value(self) -> float | None:
        """How bad it is, None where it failed.

        The gap, which is 1 at most, of a trial that raised the loss on the records to keep by no
        more than is allowed; of any other 1 + rise − (allowed − `DAMAGE`).
        """
        if self.rise is None or (self.gap is None and not self.pruned):
            return None
        if self.rise <= self.allowed and self.gap is not None:
            return self.gap
        return 1 + self.rise - (self.allowed - DAMAGE)


def row_of(settings: MethodSettings) -> str:
    """Return the name of a method's row."""
    return settings.name or settings.method


def trial_name(row: str, number: int) -> str:
    """Return the name of a trial's row."""
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
    methods = {row_of(settings): settings.method for settings in recipe.methods}
    rows = [
        MethodSettings(name=trial_name(row, i), method=methods[row], options=dict(options))
        for row, several in tried.items()
        for i, options in enumerate(several)
    ]
    update = {
        "forget": [recipe.tune.forget],
        "holdout": recipe.looked_at,
        "validation": None,
        "seeds": (recipe.tune.seed,),
        "robustness": (),
        "policy": None,
        "methods": rows,
        "tune": None,
    }
    return recipe.model_copy(update=update)


def hopeless(rise: float, error: float, earlier: Sequence[TuningTrial]) -> bool:
    """Say whether a trial cannot become the best any more, going by its rise alone.

    It cannot if another kept the rest and it does not, or if another has damaged the rest less:
    rise − 2 · error > max(allowed, least value before − 1 + allowed − `DAMAGE`).

    Args:
        rise: of the loss on a sample of the records to keep.
        error: its standard error.
        earlier: trials of the same row before it.

    Returns:
        Whether its audit may be spared. False for a row's first trial.
    """
    values = [trial.value for trial in earlier if trial.value is not None]
    allowed = max((trial.allowed for trial in earlier), default=DAMAGE)
    return bool(values) and rise - _SURE * error > max(
        allowed, min(values) - 1 + (allowed - DAMAGE)
    )


def own_values(recipe: CompareRecipe, settings: MethodSettings) -> dict[str, Any]:
    """Return the value of every option that a row has without being tuned.

    Args:
        recipe: the recipe.
        settings: the row.

    Returns:
        By option; None where it is decided when the records are known.
    """
    method = method_of(settings.method)
    values = resolve(method, settings.options).as_dict()
    if values.get("learning_rate") is None:
        taught = without_auto(recipe.finetune.options).get("learning_rate", USUAL_RATE)
        values["learning_rate"] = method.rate * float(taught)
    return values


def chosen_of(trials: Sequence[TuningTrial]) -> list[TuningTrial]:
    """Say which trial of a row is best.

    Of those that raised the loss on the records to keep by no more than is allowed, the one that
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


def tuned(recipe: CompareRecipe, trials: Sequence[TuningTrial]) -> CompareRecipe:
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
            update={"options": dict(best.get(row_of(settings), settings.options)), "search": {}}
        )
        for settings in recipe.methods
    ]
    return recipe.model_copy(update={"methods": methods, "tune": None})


def check_validation(recipe: CompareRecipe) -> None:
    """Refuse to tune by the records that methods are judged by.

    Raises OptionError if there is `tune` and no `validation`.
    """
    if recipe.tune and not recipe.validation:
        raise OptionError(
            f"tune needs validation: without it methods are tuned by the holdout "
            f"({recipe.holdout}), which judges them; write validation: SELECTOR, other records "
            "that the model never saw, such as a half of the holdout"
        )


def check_tuning(recipe: CompareRecipe, pool: Pool) -> None:
    """Refuse to tune on what is reported, and search spaces that are none.

    Raises OptionError if there is a search space and nothing says to tune, or the other way round,
    or a space holds what the method does not take; without `validation`; without Optuna. Raises
    SelectionError if a record that is reported on would be tuned on.
    """
    check_validation(recipe)
    spaces = [settings for settings in recipe.methods if settings.search]
    if recipe.tune is None:
        if spaces:
            raise OptionError(
                f"method {row_of(spaces[0])} has a search space, and nothing says to tune: give "
                "tune: {trials: …, forget: …}, records of train that no set forgets"
            )
        return
    if not spaces:
        raise OptionError("tune: no method has a search space; give one its search: {OPTION: […]}")
    for settings in spaces:
        for dimension in dimensions(settings.search, {}, row_of(settings)):
            for value in dimension.values or (dimension.low, dimension.high):
                options = {**settings.options, dimension.key: value}
                resolve(method_of(settings.method), options)
    need_optuna()
    mine = set(pool.positions(recipe.tune.forget))
    for selector in recipe.forget_sets:
        shared = mine & set(pool.positions(selector))
        if shared:
            raise SelectionError(
                f"tune: forget {recipe.tune.forget!r} shares {len(shared)} record(s) with the "
                f"reported set {selector!r}; methods must not be tuned on what they are judged by"
            )
