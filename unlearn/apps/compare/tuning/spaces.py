"""Search spaces, and which of their points to try next: Optuna's TPE on what was tried before."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from typing import TYPE_CHECKING, Any

from unlearn.config import StrictModel, validated
from unlearn.errors import OptionError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

__all__ = ["Dimension", "Tried", "dimensions", "need_optuna", "size", "suggest"]

STARTUP = 2
"""Trials before TPE is asked: the recipe's own and one drawn at random. TPE compares the best
trials with the rest, so two are the least that it can compare. With Optuna's ten, budgets as small
as those of comparisons would be random searches: of 60 simulated one-option spaces a decade wide,
four trials came within 0.13 nats of the optimum after 2, 0.16 after 3, and 0.22 at random; six
within 0.10, 0.12 and 0.16."""

_DIGITS = 3
"""Significant digits of a number out of a range: enough for a learning rate, and so few that
another machine's last bit makes no other trial of it."""

_MOST = 10_000
"""Points of a search space that are looked at for one that was not tried."""

_ATTEMPTS = 50


class _Range(StrictModel):
    """Numbers between two ends; whole ones where both ends are."""

    low: int | float
    high: int | float
    log: bool = False


@dataclass(frozen=True)
class Dimension:
    """What may be tried for one option.

    Attributes:
        key: the option.
        values: what may be tried; ascending if all are numbers. Empty for a range.
        ordered: whether the values are numbers, so that neighbours are alike.
        low: least value of a range.
        high: greatest value of a range.
        log: whether ratios count in a range instead of differences.
    """

    key: str
    values: tuple[Any, ...] = ()
    ordered: bool = False
    low: int | float = 0
    high: int | float = 0
    log: bool = False

    @property
    def choices(self) -> tuple[Any, ...] | None:
        """All values, None where there are too many to name."""
        if self.values:
            return self.values
        return tuple(range(self.low, self.high + 1)) if self._whole else None  # type: ignore[arg-type]

    @property
    def _whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's word for it; values of a list are meant by their place in it.

        Places in an ascending list are numbers of their own, so that TPE knows which values are
        neighbours, as it does not of categories.
        """
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.values and self.ordered:
            return IntDistribution(0, len(self.values) - 1)
        if self.values:
            return CategoricalDistribution(range(len(self.values)))
        if self._whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def place(self, value: Any) -> Any:
        """Return a value as Optuna sees it; None if it is not in the space."""
        if self.values:
            return self.values.index(value) if value in self.values else None
        return value if _number(value) and self.low <= value <= self.high else None

    def value(self, place: Any) -> Any:
        """Return what Optuna means."""
        if self.values:
            return self.values[place]
        if self._whole:
            return int(place)
        return min(max(float(f"{place:.{_DIGITS}g}"), float(self.low)), float(self.high))

    def distance(self, a: Any, b: Any) -> float:
        """Return how far two of its choices lie from each other, in parts of the whole."""
        if self.values and not self.ordered:
            return float(a != b)
        choices = self.choices or ()
        return abs(choices.index(a) - choices.index(b)) / max(1, len(choices) - 1)


@dataclass(frozen=True)
class Tried:
    """A point of a search space, and what came of it.

    Attributes:
        point: value by option, as far as they are known.
        value: the smaller, the better; None where the trial failed.
        pruned: whether `value` is what it looked like when it was given up.
    """

    point: Mapping[str, Any]
    value: float | None
    pruned: bool = False


def need_optuna() -> None:
    """Refuse to go on without Optuna.

    Raises:
        OptionError: saying what to install.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise OptionError(
            "tuning needs Optuna, which is not installed: in a clone of unlearn, "
            "pip install '.[tune]'"
        ) from None


def dimensions(search: Mapping[str, Any], own: Mapping[str, Any], row: str) -> list[Dimension]:
    """Read a search space.

    Args:
        search: by option a list of values, or `{low: …, high: …, log: true}`.
        own: value of each option that the row has without being tuned, where it is known; numbers
            among them find their place in lists of numbers.
        row: the row, for messages.

    Returns:
        A dimension an option.

    Raises:
        OptionError: naming the option whose space is none.
    """
    return [_dimension(key, given, own.get(key), row) for key, given in search.items()]


def _dimension(key: str, given: Any, own: Any, row: str) -> Dimension:
    where = f"search: {row}: {key}"
    if isinstance(given, Mapping):
        limits = validated(_Range, given, where)
        if not limits.low < limits.high:
            raise OptionError(
                f"{where}: low must be below high, not {limits.low:g} and {limits.high:g}"
            )
        if limits.log and limits.low <= 0:
            raise OptionError(f"{where}: low must be above 0 where log is true, not {limits.low:g}")
        return Dimension(key, low=limits.low, high=limits.high, log=limits.log)
    if not given:
        raise OptionError(f"{where}: no value to try")
    ordered = all(map(_number, given))
    values = [*given, own] if ordered and _number(own) else list(given)
    once = [value for i, value in enumerate(values) if value not in values[:i]]
    return Dimension(key, tuple(sorted(once) if ordered else once), ordered)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def size(space: Sequence[Dimension]) -> int | None:
    """Return how many points a search space has; None where they cannot be counted."""
    choices = [dimension.choices for dimension in space]
    return None if None in choices else prod(len(c) for c in choices if c)


def suggest(space: Sequence[Dimension], tried: Sequence[Tried], seed: str) -> dict[str, Any] | None:
    """Say which point to try next.

    The tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011, section 4) takes the point
    x of the largest l(x)/g(x) among some drawn from l, the density of the best trials, with g that
    of the others. The answer depends on nothing but the arguments: the study is built anew from
    what was tried. Where TPE comes back to a point that was tried, the nearest one that was not is
    taken, so that no trial of a budget is wasted.

    Args:
        space: the search space.
        tried: all trials before.
        seed: any text; the same on every machine.

    Returns:
        Value by option; None if all points were tried.
    """
    tried_points = [trial.point for trial in tried]
    known = all(dimension.choices is not None for dimension in space)
    for attempt in range(_ATTEMPTS):
        point = _sampled(space, tried, f"{seed} {attempt}")
        if point not in tried_points:
            return point
        if known:
            return _nearest(space, point, tried_points)
    return None


def _sampled(space: Sequence[Dimension], tried: Sequence[Tried], seed: str) -> dict[str, Any]:
    """Ask a sampler that knows the trials before, and nothing else."""
    import optuna

    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4])
    with _quiet(optuna.logging.get_verbosity, optuna.logging.set_verbosity, optuna.logging.WARNING):
        # each option for itself: so few trials say nothing of how options play together
        sampler = optuna.samplers.TPESampler(
            seed=number, n_startup_trials=STARTUP, multivariate=False
        )
        study = optuna.create_study(sampler=sampler)
        study.add_trials([_frozen(space, trial) for trial in tried])
        suggestion = study.ask({dimension.key: dimension.distribution() for dimension in space})
    return {dimension.key: dimension.value(suggestion.params[dimension.key]) for dimension in space}


def _frozen(space: Sequence[Dimension], tried: Tried) -> FrozenTrial:
    """Write a trial down for Optuna; options whose value is unknown or elsewhere are left out.

    TPE takes a pruned trial for worse than every complete one, and for the worst where it has no
    intermediate value: so is a failed one, which says that its point is none to come near.
    """
    import optuna
    from optuna.trial import TrialState

    places = {d.key: d.place(tried.point[d.key]) for d in space if d.key in tried.point}
    places = {key: place for key, place in places.items() if place is not None}
    state: dict[str, Any] = {"state": TrialState.COMPLETE, "value": tried.value}
    if tried.pruned or tried.value is None:
        seen = {} if tried.value is None else {0: tried.value}
        state = {"state": TrialState.PRUNED, "intermediate_values": seen}
    return optuna.trial.create_trial(
        params=places,
        distributions={d.key: d.distribution() for d in space if d.key in places},
        **state,
    )


@contextlib.contextmanager
def _quiet(get: Callable[[], int], put: Callable[[int], None], level: int) -> Iterator[None]:
    before = get()
    put(level)
    try:
        yield
    finally:
        put(before)


def _nearest(
    space: Sequence[Dimension], point: Mapping[str, Any], tried_points: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return the point nearest to one of a space of choices that was not tried."""
    keys = [dimension.key for dimension in space]
    every = product(*(dimension.choices or () for dimension in space))
    points = (dict(zip(keys, values, strict=True)) for values in islice(every, _MOST))
    untried = [other for other in points if other not in tried_points]
    if not untried:
        return None
    return min(
        untried, key=lambda other: sum(d.distance(other[d.key], point[d.key]) for d in space)
    )
