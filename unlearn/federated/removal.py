"""Ways to take a client, or some of its records, out of a federation's rounds.

Each is a function of a `Removal`, fills its new rounds, and returns what it did for the lineage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unlearn.config import StrictModel, validated
from unlearn.errors import OptionError, did_you_mean
from unlearn.federated.aggregation import norms, step
from unlearn.federated.client import Client
from unlearn.federated.history import Round, Rounds
from unlearn.federated.plan import Plan
from unlearn.federated.running import simulate
from unlearn.methods.budget import ROUNDED, Budget, budget_of
from unlearn.training.options import TrainingOptions

__all__ = ["EXACT", "METHODS", "Removal", "method_of"]

EXACT = "retrain"
"""The exact way, by the name that it has for any adapter."""

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Removal:
    """What is to be taken out of what.

    Attributes:
        old: the rounds as they happened.
        new: where those without the records go; it holds none yet, or some of this very removal.
        plan: as the old rounds were made, with a schedule to be replaced.
        kept: clients with the records that they keep.
        gone: clients with those that they lose.
        first: the first round in which one of `gone` took part; one past the last if none did.
        options: of the method.
        told: called with (rounds done, rounds planned).
        drift: by how much the kept loss lies above what it was at first, by earlier removals.
    """

    old: Rounds
    new: Rounds
    plan: Plan
    kept: Sequence[Client]
    gone: Sequence[Client]
    first: int
    options: Mapping[str, Any]
    told: Told | None = None
    drift: float = 0.0

    @property
    def last(self) -> int:
        """The number of the last old round."""
        return self.old.last()

    def schedule(self) -> list[list[str]]:
        """Return who took part in each old round, without clients that have no record left."""
        left = {client.mac for client in self.kept}
        return [[p.client for p in each.parts if p.client in left] for each in self.old.all()]

    def run(self, plan: Plan, clients: Sequence[Client], planned: int | None = None) -> None:
        """Run the rounds of a plan that are not there yet."""
        whole = planned or len(plan.schedule)
        simulate(plan, self.new, clients, self.told and (lambda done, _: self._tell(done, whole)))

    def _tell(self, done: int, planned: int) -> None:
        assert self.told is not None
        self.told(done, planned)

    def begin(self, number: int) -> None:
        """Take over old rounds up to one, as they were; nothing where rounds are there already."""
        if self.new.last() >= 0:
            return
        for each in range(number + 1):
            done = self.old.round(each)
            sent = {part.client: self.old.sent(each, part.client) for part in done.parts}
            self.new.write(done, self.old.weights(each), sent)

    def start_from(self, number: int) -> None:
        """Begin anew with the weights of an old round."""
        if self.new.last() < 0:
            self.new.write(Round(number=0), self.old.weights(number), {})


@dataclass(frozen=True)
class Done:
    """What a removal did.

    Attributes:
        budget: of retraining, as a lineage keeps it.
        notes: what the user should know.
        replayed: rounds of the new folder that were run for it.
    """

    budget: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    replayed: tuple[int, ...] = ()


class ReplayOptions(StrictModel):
    """Of the exact way."""

    budget: float | str = 1.0
    quality: float = 0.1


class EraserOptions(StrictModel):
    """Of FedEraser: Δt and r of section III."""

    interval: int = 2
    calibration: float = 0.5


class LocalOptions(StrictModel):
    """Of local NPO: how the client forgets, and rounds of the others after it."""

    rate: float = 0.2
    epochs: float = 10.0
    recovery: int = 1


def replay(removal: Removal) -> Done:
    """Replay from the round before the client first took part, and the rest without it: exact.

    Rounds before are kept as they are. Those after are run again with whoever took part, each from
    its seed, and none of them may be missing: with the whole budget the result is, bit by bit, what
    the federation would have come to, had the records never been there. A budget below 1 runs that
    part of these rounds; `auto` stops once the clients that stay have the loss that they had
    before, rounded, to within `quality` nats.

    Args:
        removal: what is to be taken out.

    Returns:
        What was done.
    """
    chosen = validated(ReplayOptions, removal.options, EXACT)
    budget = budget_of(chosen.model_dump())
    begin, schedule = removal.first - 1, removal.schedule()
    removal.begin(begin)
    again = removal.last - begin

    def plan(rounds: int) -> Plan:
        update = {"schedule": schedule[: begin + rounds], "whole": True}
        return removal.plan.model_copy(update=update)

    if budget.share is not None:
        wanted = math.ceil(budget.share * again - 1e-9)
        removal.run(plan(wanted), removal.kept)
        return _replayed(budget, begin, wanted, again)
    # a rounded number is all of the old weights that may decide
    target = round(_kept_loss(removal, removal.old.weights(removal.last)) - removal.drift, ROUNDED)
    taken, loss = 0, math.nan
    while taken < again:
        taken += 1
        removal.run(plan(taken), removal.kept, begin + again)
        loss = _kept_loss(removal, removal.new.weights(begin + taken))
        if abs(loss - target) <= budget.quality:
            break
    if not taken:
        return _replayed(budget, begin, taken, again)
    losses = {"target": target, "new": round(loss, 4), "drift": round(loss - target, 4)}
    more = {"kept_loss": losses, "quality": budget.quality}
    return _replayed(budget, begin, taken, again, more)


def _replayed(
    budget: Budget, begin: int, taken: int, again: int, more: Mapping[str, Any] | None = None
) -> Done:
    used = taken / again if again else 1.0
    facts = {"asked": budget.asked, "used": round(used, 4), "rounds": taken, "of": again}
    words = f"replayed {taken} of {again} round(s), from the state after round {begin}"
    numbers = tuple(range(begin + 1, begin + taken + 1))
    return Done({**facts, "from": begin, **(more or {})}, (words,), numbers)


def _kept_loss(removal: Removal, weights: Mapping[str, Any]) -> float:
    """Return the mean loss of kept records under weights, client by client weighted by records."""
    from unlearn.federated.local_grid import LocalGrid
    from unlearn.federated.server import losses_of

    grid = LocalGrid(removal.kept)
    names = [client.mac for client in removal.kept]
    found = losses_of(grid, removal.plan, weights, names).values()
    return float(np.average([loss for _, loss in found], weights=[n for n, _ in found]))


def fed_eraser(removal: Removal) -> Done:
    """Calibrate every Δt-th saved round without the client (FedEraser, 2012.13891).

    From the state before the client first took part, the others train a part r of a round; the
    direction of each update is new, and its length is that of the update it sent in the old round.
    It approximates: those lengths were found beside the client that is taken out.

    Args:
        removal: what is to be taken out.

    Returns:
        What was done.

    Raises:
        OptionError: if Δt or r is impossible.
    """
    chosen = validated(EraserOptions, removal.options, "fed_eraser")
    if chosen.interval < 1 or not 0 < chosen.calibration <= 1:
        raise OptionError("fed_eraser: interval is at least 1, calibration above 0 and at most 1")
    numbers = range(removal.first, removal.last + 1, chosen.interval)
    schedule = removal.schedule()
    lengths = {
        str(place): {
            client: norms(step(removal.old.weights(number - 1), removal.old.sent(number, client)))
            for client in schedule[number - 1]
        }
        for place, number in enumerate(numbers, 1)
    }
    plan = removal.plan.model_copy(
        update={
            "schedule": [schedule[number - 1] for number in numbers],
            "task": "erase",
            "lengths": lengths,
            "training": _shorter(removal.plan.training, chosen.calibration),
        }
    )
    removal.start_from(removal.first - 1)
    removal.run(plan, removal.kept)
    words = f"calibrated {len(numbers)} of {removal.last - removal.first + 1} saved round(s)"
    return Done(notes=(words,), replayed=tuple(range(1, len(numbers) + 1)))


def _shorter(training: Mapping[str, Any], part: float) -> dict[str, Any]:
    """Return a training that takes a part of the passes."""
    changed = dict(training)
    if changed.get("max_steps"):
        changed["max_steps"] = max(1, round(changed["max_steps"] * part))
    elif changed.get("epochs"):
        changed["epochs"] = changed["epochs"] * part
    return changed


def local_npo(removal: Removal) -> Done:
    """Let the client forget its own records by NPO, then the others train some rounds.

    As in federated unlearning by local gradient ascent (2207.05521), with NPO (2404.05868) in its
    place. The client must take part in its own removal. It approximates.

    Args:
        removal: what is to be taken out.

    Returns:
        What was done.

    Raises:
        OptionError: for a number that is impossible.
    """
    chosen = validated(LocalOptions, removal.options, "local_npo")
    if chosen.rate <= 0 or chosen.epochs <= 0 or chosen.recovery < 0:
        raise OptionError("local_npo: rate and epochs are positive, recovery is at least 0")
    rate = removal.plan.training["learning_rate"] * chosen.rate
    own = {**removal.plan.training, "learning_rate": rate, "epochs": chosen.epochs}
    training = TrainingOptions(**{**own, "max_steps": None, "stop": "none"}).model_dump()
    macs = sorted(client.mac for client in removal.gone)
    removal.start_from(removal.last)
    plan = removal.plan.model_copy(
        update={"schedule": [macs], "unlearns": True, "training": training}
    )
    planned = 1 + chosen.recovery
    removal.run(plan, removal.gone, planned)
    kept = sorted(client.mac for client in removal.kept)
    after = removal.plan.model_copy(update={"schedule": [macs] + [kept] * chosen.recovery})
    removal.run(after, removal.kept, planned)
    words = f"the client forgot its records, and the others trained {chosen.recovery} round(s) more"
    return Done(notes=(words,), replayed=tuple(range(1, planned + 1)))


METHODS: Mapping[str, Callable[[Removal], Done]] = {
    EXACT: replay,
    "fed_eraser": fed_eraser,
    "local_npo": local_npo,
}


def method_of(name: str) -> Callable[[Removal], Done]:
    """Look a way up.

    Args:
        name: its name.

    Returns:
        The function.

    Raises:
        OptionError: with the nearest names.
    """
    if name not in METHODS:
        raise OptionError(
            f"--method {name}: of a federation a client is taken out by {', '.join(METHODS)}"
            f"{did_you_mean(name, METHODS)}"
        )
    return METHODS[name]
