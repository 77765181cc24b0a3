"""Run rounds in this process, go on with those that are there, and say what they came to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from unlearn.errors import OutputError
from unlearn.federated.client import Client
from unlearn.federated.history import Round, Rounds
from unlearn.federated.local_training import Workshop
from unlearn.federated.members import Members
from unlearn.federated.plan import Plan
from unlearn.federated.settings import Settings
from unlearn.files import staged_file
from unlearn.model.opening import Opening
from unlearn.model.state import ModelState
from unlearn.provenance.lineage import Federation, Member
from unlearn.runs.signature import differences
from unlearn.strict_json import NotJsonError, read_json_file
from unlearn.training.fitting import Fit
from unlearn.training.stages import trained_weights

__all__ = [
    "beginning",
    "clients_of",
    "federation_of",
    "fit_of",
    "losses_told",
    "resumed",
    "simulate",
]

_RUN = "run.json"


def beginning(state: ModelState) -> dict[str, Any]:
    """Return the weights of a new adapter as they travel."""
    return {name: value.cpu().float().numpy() for name, value in trained_weights(state).items()}


def resumed(target: Path, facts: Mapping[str, Any]) -> Rounds:
    """Return the folder of this run's rounds, refusing to go on with those of another.

    Args:
        target: where the result goes.
        facts: everything that decides the weights.

    Returns:
        The rounds that are there; none where it is new.

    Raises:
        OutputError: if the rounds there are not known to be of this very run.
    """
    folder = target.with_name(f".{target.name}.rounds")
    rounds, file = Rounds(folder), folder / _RUN
    if rounds.last() < 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with staged_file(file) as stage:
            stage.write_text(json.dumps(facts, sort_keys=True, indent=1), encoding="utf-8")
        return rounds
    try:
        there = read_json_file(file)
    except (OSError, NotJsonError):
        there = None
    if not isinstance(there, dict):
        raise OutputError(f"{folder} holds rounds, and nothing says of what run; delete the folder")
    if words := differences(there, facts):
        raise OutputError(
            f"{folder} holds rounds of a run with other options or data: what differs is "
            f"{', '.join(words[:4])}; repeat that command to go on with it, or delete the folder "
            "to start afresh"
        )
    return rounds


def simulate(
    plan: Plan,
    rounds: Rounds,
    clients: Sequence[Client],
    told: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Run the rounds of a plan that are not there yet, with all clients in this process.

    Args:
        plan: what to do.
        rounds: where they are kept.
        clients: the clients.
        told: called with (rounds done, rounds planned).

    Returns:
        Why trainings of clients failed, if any did.

    Raises:
        TrainingError: if a round ends with too few answers.
    """
    from unlearn.federated.local_grid import LocalGrid, empty_context
    from unlearn.federated.server import server_app

    grid = LocalGrid(clients)
    server_app(plan, rounds, told)(grid, empty_context(0))
    return grid.failures


def clients_of(members: Members, model: str | Path, opening: Opening) -> list[Client]:
    """Return clients that train in this process, on one base.

    Args:
        members: who has what.
        model: the base.
        opening: how it is opened.

    Returns:
        The clients.
    """
    workshop, names = Workshop(str(model), opening), members.clients.values()
    return [Client(n, members.of(n), members.key, lambda: workshop) for n in names]


def federation_of(
    members: Members,
    rounds: Rounds,
    *,
    by: str,
    settings: Settings,
    how: Literal["simulation", "processes"],
    private: bool = False,
) -> Federation:
    """Return who took part in what, as a lineage has it.

    Args:
        members: the clients.
        rounds: that led to the weights.
        by: the field that names clients.
        settings: how it was averaged.
        how: `simulation` or `processes`.
        private: with differential privacy of clients: nothing is said of single ones then.

    Returns:
        It, with clients by their keyed names.
    """
    made = rounds.all()
    found = [
        Member(client=mac)
        if private
        else Member(
            client=mac,
            records=sorted({members.key.digest(record) for record in members.of(name)}),
            rounds=[r.number for r in made if mac in {part.client for part in r.parts}],
        )
        for mac, name in members.clients.items()
    ]
    return Federation(
        by=by,
        aggregate=settings.averaging.aggregate,
        rounds=len(made),
        digest=rounds.digest(),
        fraction=settings.averaging.fraction,
        members=found,
        lost={str(r.number): sorted(r.lost) for r in made if r.lost and not private},
        how=how,
        flower=metadata.version("flwr"),
    )


def losses_told(rounds: Sequence[Round]) -> list[str]:
    """Say where clients were lost, and what the rank had no room for."""
    notes = [
        f"round {each.number}: {len(each.lost)} client(s) were lost and the others went on: "
        f"{'; '.join(dict.fromkeys(each.lost.values()))}"
        for each in rounds
        if each.lost
    ]
    worst = max((each.rank_lost for each in rounds), default=0.0)
    if worst > 0:
        notes.append(
            f"the rank had no room for up to {worst:.1%} of the squared norm of a round's average"
        )
    return notes


def fit_of(rounds: Sequence[Round], settings: Settings, planned: int) -> Fit:
    """Return what all rounds did together, as a training's result."""
    parts = [part for each in rounds for part in each.parts]
    return Fit(
        steps=sum(part.steps for part in parts),
        planned_steps=sum(part.steps for part in parts),
        seconds=sum(part.seconds for part in parts),
        tokens=sum(part.tokens for part in parts),
        stopped=None if len(rounds) == planned else f"{len(rounds)} of {planned} rounds",
        rules="all rounds",
        training=settings.pooled,
        deterministic=True,
    )
