"""Fine-tune over clients whose records stay with them: what the command line and Python call."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from unlearn.config import called_with
from unlearn.data.record import Record
from unlearn.data.splits import loaded, near_copies
from unlearn.data.templates import Template, choose_template
from unlearn.data.tokenization import Example
from unlearn.errors import OptionError, OutputError
from unlearn.federated.client import Client
from unlearn.federated.flower import check_flower
from unlearn.federated.history import Round, Rounds
from unlearn.federated.local_training import Workshop, set_weights
from unlearn.federated.members import Members, members_of
from unlearn.federated.options import FederateOptions
from unlearn.federated.plan import Noise, Plan, takes_part
from unlearn.federated.privacy import PrivateFederation, private_federation
from unlearn.federated.settings import Settings, from_recipe, plan_of, settings_of
from unlearn.files import check_output, staged_file
from unlearn.losses import NLL
from unlearn.methods.job import TrainingPlan
from unlearn.model.opening import Opening
from unlearn.model.state import ModelState, new_adapter
from unlearn.processes import if_interrupted, world_size
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Federation, Member, RecordDigests
from unlearn.provenance.suppression import check_suppressed
from unlearn.runs.progress import shown
from unlearn.runs.quick_check import measure
from unlearn.runs.saving import Result, encode_records, encoding_notes, poisoned_notes, save_result
from unlearn.runs.signature import differences, signature, trained_from
from unlearn.strict_json import NotJsonError, read_json_file
from unlearn.training.expected_time import expected_seconds
from unlearn.training.fitting import Fit, sample, total_steps
from unlearn.training.objective import Objective
from unlearn.training.stages import trained_weights

__all__ = [
    "beginning",
    "clients_of",
    "federate",
    "federation_of",
    "fit_of",
    "resumed",
    "run_federate",
    "simulate",
]

_RUN = "run.json"


def run_federate(options: FederateOptions) -> Result:
    """Train a LoRA adapter over clients, round by round, and save it with its lineage.

    In each round the server sends the weights to the clients, each trains on its own records, and
    the server averages what they send back. Every round is kept beside the output until all are
    done, and then in its folder `rounds`: the same command goes on after the last whole one.

    Raises UnlearnError for any input that cannot be used; nothing is written then.
    """
    check_flower()
    if world_size() > 1:
        raise OptionError("federate runs in one process: start the command without a launcher")
    target = check_output(options.output, overwrite=options.overwrite)
    given, count = from_recipe(options.options, options.rounds, options.recipe)
    settings = settings_of(given, options.lora, count)
    key = Key.load()
    members, excluded, notes = _members(options, key)
    check_suppressed(members.records, key, advice="leave them out with --exclude")
    state = options.open(options.model)
    state = new_adapter(state, settings.lora.model_dump(), options.seed)
    template = choose_template(options.template, state.tokenizer, members.records)
    ordered = [record for name in members.clients.values() for record in members.of(name)]
    examples = encode_records(ordered, state, template, settings.local)
    own = _Own(options, settings, members, state, template, ordered, examples)
    private = private_federation(options.dp, given, settings, len(members.clients))
    facts = own.facts(private)
    plan = own.plan(facts, private)
    notes += [*poisoned_notes(members.records), *encoding_notes(own.examples)]
    notes += own.notes(plan, private)
    if options.announce:
        options.announce(own.announced(plan, tuple(notes)))
    rounds = resumed(target, facts)
    if rounds.last() < 0:
        rounds.write(Round(number=0), beginning(state), {})
    with (
        shown(options.progress, "federation", "rounds") as progress,
        if_interrupted(lambda: "whole rounds are kept, and the same command goes on with them"),
    ):
        _run(options, plan, rounds, members, progress)
    set_weights(state, rounds.weights(len(plan.schedule)))
    digests = sorted({key.digest(record) for record in members.records})
    made = rounds.all()
    fit = fit_of(made, settings, len(plan.schedule))
    line = save_result(
        state,
        target,
        overwrite=options.overwrite,
        beside=rounds.folder,
        verb="federate",
        parent=None,
        records=RecordDigests(key_id=key.id, trained=digests).left_out(excluded),
        poisoned=len(members.records.poisoned),
        template=template.name,
        method="federate",
        options=settings.local.model_dump() | settings.averaging.model_dump(),
        finetuned_with=own.finetuned_with(private),
        seed=options.seed,
        made_from=trained_from(facts, "training"),
        privacy=private.claim if private else None,
        federation=federation_of(
            members,
            made,
            by=options.client_by,
            settings=settings,
            how="processes" if options.processes else "simulation",
        ),
        fit=fit,
    )
    after = {"train": measure(state, sample(own.examples))}
    return Result(target, line, fit, after=after, notes=(*notes, *_lost(made)))


federate = called_with(FederateOptions, run_federate, "federate")


@dataclass(frozen=True)
class _Own:
    """What a run works on: options, settings, clients, model; records by client, and as tokens."""

    options: FederateOptions
    settings: Settings
    members: Members
    state: ModelState
    template: Template
    ordered: list[Record]
    examples: list[Example]

    def facts(self, private: PrivateFederation | None) -> dict[str, Any]:
        """Return everything that decides the weights."""
        key, by = self.members.key, self.members.clients
        sizes = {mac: len(self.members.of(name)) for mac, name in by.items()}
        # each content once, in an order that neither the file nor the clients decide
        content = {key.digest(record): i for i, record in enumerate(self.ordered)}
        digests = sorted(content)
        examples = [self.examples[content[digest]] for digest in digests]
        return signature(
            self.state,
            {"training": (digests, examples)},
            key,
            self.template,
            verb="federate",
            seed=self.options.seed,
            clients=sizes,
            **self.finetuned_with(private),
        )

    def finetuned_with(self, private: PrivateFederation | None) -> dict[str, Any]:
        """Return how it is trained, as the lineage has it."""
        return self.settings.facts | ({"privacy": private.settings} if private else {})

    def plan(self, facts: Mapping[str, Any], private: PrivateFederation | None) -> Plan:
        """Return what the server does."""
        averaging, seed = self.settings.averaging, self.options.seed
        noise = None
        if private:
            text = json.dumps(facts, sort_keys=True)
            secret = self.members.key.mac(b"noise of a federation\0" + text.encode())
            noise = Noise(**private.mechanism, secret=hashlib.sha256(secret.encode()).hexdigest())
        schedule = [
            [m for m in self.members.clients if takes_part(m, number, seed, averaging.fraction)]
            for number in range(1, self.settings.rounds + 1)
        ]
        plan = plan_of(self.settings, self.state.base_digest(), self.template.name, seed)
        return plan.model_copy(update={"schedule": schedule, "noise": noise})

    def notes(self, plan: Plan, private: PrivateFederation | None) -> list[str]:
        """Say what the user should know beforehand."""
        found = [private.note] if private else []
        if empty := sum(not each for each in plan.schedule):
            found.append(f"in {empty} of {len(plan.schedule)} rounds no client takes part")
        return found

    def announced(self, plan: Plan, notes: tuple[str, ...]) -> TrainingPlan:
        """Say what is about to be trained."""
        names = self.members.clients
        sizes = {mac: len(self.members.of(name)) for mac, name in names.items()}
        local = self.settings.local
        steps = sum(total_steps(local, sizes[m]) for each in plan.schedule for m in each)
        text = (
            f"train an adapter on {len(self.members.records)} records of {len(names)} clients in "
            f"{len(plan.schedule)} rounds"
        )
        seconds = expected_seconds(
            self.state, Objective(retain=NLL()), local, max(1, steps), retain=self.examples
        )
        return TrainingPlan(text, steps, seconds, notes)


def _members(options: FederateOptions, key: Key) -> tuple[Members, set[str], list[str]]:
    """Return the clients to train with, digests of what is left out, and notes of copies."""
    records = loaded(options.data)
    members = members_of(options.data, records, options.client_by, key)
    if not options.exclude:
        return members, set(), []
    gone = members.select(options.exclude)
    kept = members.without(gone)
    return kept, set(map(key.digest, gone)), near_copies(gone, kept.records)


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


def _run(
    options: FederateOptions,
    plan: Plan,
    rounds: Rounds,
    members: Members,
    told: Callable[[int, int], None] | None,
) -> None:
    """Run the rounds, in this process or several."""
    if options.processes:
        from unlearn.federated.processes import run_in_processes

        run_in_processes(plan, rounds, members, options.model, options.opening, told)
        return
    simulate(plan, rounds, clients_of(members, options.model, options.opening), told)


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
    rounds: Sequence[Round],
    *,
    by: str,
    settings: Settings,
    how: Literal["simulation", "processes"],
) -> Federation:
    """Return who took part in what, as a lineage has it.

    Args:
        members: the clients.
        rounds: that led to the weights.
        by: the field that names clients.
        settings: how it was averaged.
        how: `simulation` or `processes`.

    Returns:
        It, with clients by their keyed names.
    """
    found = [
        Member(
            client=mac,
            records=sorted({members.key.digest(record) for record in members.of(name)}),
            rounds=[r.number for r in rounds if mac in {part.client for part in r.parts}],
        )
        for mac, name in members.clients.items()
    ]
    return Federation(
        by=by,
        aggregate=settings.averaging.aggregate,
        rounds=len(rounds),
        fraction=settings.averaging.fraction,
        members=found,
        lost={str(each.number): sorted(each.lost) for each in rounds if each.lost},
        how=how,
        flower=metadata.version("flwr"),
    )


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


def _lost(rounds: Sequence[Round]) -> list[str]:
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
