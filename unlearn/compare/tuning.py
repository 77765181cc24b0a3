"""Tune every method with the same budget, on records that no reported cell forgets.

The first trial of a method is as the recipe gives it; the others are drawn from its search space
without replacement, by a seed: random search, which finds what matters among a few options about as
well as cleverer ways with so few trials (Bergstra and Bengio, JMLR 13:281, 2012). All trials are
known before the first one runs, so that they are steps like any other: run side by side, and found
again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from unlearn._recipes import CompareRecipe, MethodSettings
from unlearn.compare.data import Pool
from unlearn.errors import OptionError, SelectionError
from unlearn_eval.comparison import Comparison
from unlearn_eval.comparison.lines import DAMAGE

__all__ = ["Trial", "check_tuning", "chosen_of", "trials_of", "tuned", "tuning_recipe"]

_MOST = 10_000
"""Points of a search space that are looked at; beyond, only the first so many are drawn from."""


@dataclass(frozen=True)
class Trial:
    """One setting of a method, and what came of it.

    Attributes:
        method: name of the row.
        options: what was tried.
        gap: distance of the attacker's AUC from the references; None where the trial failed.
        rise: of the loss on the records to keep; None where the trial failed.
        chosen: whether the reported cells have these options.
    """

    method: str
    options: Mapping[str, Any]
    gap: float | None
    rise: float | None
    chosen: bool


def _row(settings: MethodSettings) -> str:
    return settings.name or settings.method


def trials_of(recipe: CompareRecipe) -> dict[str, list[dict[str, Any]]]:
    """Return by row the options that are tried.

    Args:
        recipe: a recipe with `tune`.

    Returns:
        At most `tune.trials` settings a row, its own first; fewer where its space holds no more.
    """
    assert recipe.tune is not None
    found = {}
    for settings in recipe.methods:
        space = [
            dict(zip(settings.search, values, strict=True))
            for values in islice(product(*settings.search.values()), _MOST)
        ]
        # text seeds are the same on every machine, and differ from row to row
        random.Random(f"{recipe.tune.seed} {_row(settings)}").shuffle(space)
        tried = [dict(settings.options)]
        for point in space:
            options = {**settings.options, **point}
            if options not in tried and len(tried) < recipe.tune.trials:
                tried.append(options)
        found[_row(settings)] = tried
    return found


def tuning_recipe(recipe: CompareRecipe) -> CompareRecipe:
    """Return the comparison of all trials: a row a trial, on the validation records.

    Args:
        recipe: a recipe with `tune`.

    Returns:
        A recipe without `tune`. The adapter under study is that of the recipe.
    """
    assert recipe.tune is not None
    methods = {_row(settings): settings.method for settings in recipe.methods}
    rows = [
        MethodSettings(name=f"{name} trial {i}", method=methods[name], options=options)
        for name, tried in trials_of(recipe).items()
        for i, options in enumerate(tried)
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


def chosen_of(recipe: CompareRecipe, found: Comparison) -> list[Trial]:
    """Say which trial of each method is best.

    Of those that raised the loss on the records to keep by no more than `DAMAGE`, the one that
    comes closest to the references; where all raised it by more, the one that raised it least;
    where all failed, the first, which is the recipe's own.

    Args:
        recipe: a recipe with `tune`.
        found: what came of its trials.

    Returns:
        All trials, one of each method chosen.
    """
    numbers = {o.method: o.numbers for o in found.outcomes if not o.error}

    def rank(trial: tuple[float | None, float | None]) -> tuple[int, float]:
        gap, rise = trial
        if gap is None or rise is None:
            return (2, 0.0)
        return (0, gap) if rise <= DAMAGE else (1, rise)

    trials = []
    for name, tried in trials_of(recipe).items():
        results = [numbers.get(f"{name} trial {i}", {}) for i in range(len(tried))]
        pairs = [(r.get("gap"), r.get("rise")) for r in results]
        best = min(range(len(pairs)), key=lambda i: rank(pairs[i]))
        trials += [
            Trial(name, options, *pair, chosen=i == best)
            for i, (options, pair) in enumerate(zip(tried, pairs, strict=True))
        ]
    return trials


def tuned(recipe: CompareRecipe, trials: list[Trial]) -> CompareRecipe:
    """Return a recipe with the options that were found best.

    Args:
        recipe: a recipe with `tune`.
        trials: all trials, one of each method chosen.

    Returns:
        The recipe of the reported cells, without `tune`.
    """
    best = {trial.method: trial.options for trial in trials if trial.chosen}
    methods = [
        settings.model_copy(update={"options": dict(best[_row(settings)]), "search": {}})
        for settings in recipe.methods
    ]
    return recipe.model_copy(update={"methods": methods, "tune": None})


def check_tuning(recipe: CompareRecipe, pool: Pool) -> None:
    """Refuse to tune on what is reported, and search spaces that are none.

    Args:
        recipe: the recipe.
        pool: its records.

    Raises:
        OptionError: if there is a search space and nothing says to tune, or an option has no value.
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
    empty = [f"{_row(s)}: {key}" for s in spaces for key, values in s.search.items() if not values]
    if empty:
        raise OptionError(f"search: no value to try for {empty[0]}")
    mine = set(pool.positions(recipe.tune.forget))
    for selector in recipe.forget_sets:
        shared = mine & set(pool.positions(selector))
        if shared:
            raise SelectionError(
                f"tune: forget {recipe.tune.forget!r} shares {len(shared)} record(s) with the "
                f"reported set {selector!r}; methods must not be tuned on what they are judged by"
            )
