"""Fine-tune over clients whose records stay with them: what the command line and Python call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.config import called_with
from unlearn.data.record import Record
from unlearn.data.splits import loaded, near_copies
from unlearn.data.templates import Template, choose_template
from unlearn.data.tokenization import Example
from unlearn.errors import OptionError
from unlearn.federated.flower import check_flower
from unlearn.federated.history import Round, Rounds
from unlearn.federated.local_training import set_weights
from unlearn.federated.members import Members, members_of
from unlearn.federated.options import FederateOptions
from unlearn.federated.plan import Noise, Plan, takes_part
from unlearn.federated.privacy import PrivateFederation, private_federation
from unlearn.federated.running import (
    beginning,
    clients_of,
    federation_of,
    fit_of,
    losses_told,
    resumed,
    simulate,
)
from unlearn.federated.settings import Settings, from_recipe, plan_of, settings_of
from unlearn.files import check_output
from unlearn.losses import NLL
from unlearn.methods.job import TrainingPlan
from unlearn.model.state import ModelState, new_adapter
from unlearn.processes import if_interrupted, world_size
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, RecordDigests
from unlearn.provenance.suppression import check_suppressed
from unlearn.runs.progress import shown
from unlearn.runs.quick_check import measure
from unlearn.runs.saving import Result, encode_records, encoding_notes, poisoned_notes, save_result
from unlearn.runs.signature import records_digest, signature, trained_from
from unlearn.training.expected_time import expected_seconds
from unlearn.training.fitting import Fit, sample, total_steps
from unlearn.training.objective import Objective

__all__ = ["federate", "run_federate"]


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
    own = _Own.of(options)
    facts = own.facts()
    plan = own.plan(facts)
    notes = own.notes(plan)
    if options.announce:
        options.announce(own.announced(plan, notes))
    rounds = resumed(target, facts)
    if rounds.last() < 0:
        rounds.write(Round(number=0), beginning(own.state), {})
    with (
        shown(options.progress, "federation", "rounds") as progress,
        if_interrupted(lambda: "whole rounds are kept, and the same command goes on with them"),
    ):
        own.run(plan, rounds, progress)
    set_weights(own.state, rounds.weights(len(plan.schedule)))
    made = rounds.all()
    fit = fit_of(made, own.settings, len(plan.schedule))
    line = own.save(target, rounds, facts, fit)
    after = {"train": measure(own.state, sample(own.examples))}
    return Result(target, line, fit, after=after, notes=(*notes, *losses_told(made)))


federate = called_with(FederateOptions, run_federate, "federate")


@dataclass(frozen=True)
class _Own:
    """What a run works on.

    Attributes:
        options: of the run.
        settings: how it trains and averages.
        members: who has what.
        excluded: digests of records that are left out.
        state: the opened base with a new adapter.
        template: how records are written.
        ordered: the records, client by client.
        examples: the same as tokens.
        private: what differential privacy takes, if it is asked for.
        told: what the user should know of the data.
    """

    options: FederateOptions
    settings: Settings
    members: Members
    excluded: frozenset[str]
    state: ModelState
    template: Template
    ordered: list[Record]
    examples: list[Example]
    private: PrivateFederation | None
    told: tuple[str, ...]

    @classmethod
    def of(cls, options: FederateOptions) -> _Own:
        """Read the records, and open the base."""
        given, count = from_recipe(options.options, options.rounds, options.recipe)
        settings = settings_of(given, options.lora, count)
        key = Key.load()
        members, excluded, copies = _members(options, key)
        check_suppressed(members.records, key, advice="leave them out with --exclude")
        private = private_federation(options.dp, given, settings, len(members.clients))
        opened = options.open(options.model)
        state = new_adapter(opened, settings.lora.model_dump(), options.seed)
        template = choose_template(options.template, state.tokenizer, members.records)
        ordered = [record for name in members.clients.values() for record in members.of(name)]
        return cls(
            options=options,
            settings=settings,
            members=members,
            excluded=frozenset(excluded),
            state=state,
            template=template,
            ordered=ordered,
            examples=encode_records(ordered, state, template, settings.local),
            private=private,
            told=tuple(copies),
        )

    def facts(self) -> dict[str, Any]:
        """Return everything that decides the weights."""
        key, by = self.members.key, self.members.clients
        # whose record is whose decides them, too
        whose = {
            mac: records_digest([*map(key.digest, self.members.of(name))], key)
            for mac, name in by.items()
        }
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
            clients=whose,
            **self.finetuned_with,
        )

    @property
    def finetuned_with(self) -> dict[str, Any]:
        """How it is trained, as the lineage has it."""
        privacy = {"privacy": self.private.settings} if self.private else {}
        return self.settings.facts | privacy

    def plan(self, facts: Mapping[str, Any]) -> Plan:
        """Return what the server does."""
        averaging, seed = self.settings.averaging, self.options.seed
        noise = None
        if self.private:
            text = json.dumps(facts, sort_keys=True)
            secret = self.members.key.mac(b"noise of a federation\0" + text.encode())
            noise = Noise(
                **self.private.mechanism, secret=hashlib.sha256(secret.encode()).hexdigest()
            )
        coin: int | str = seed
        if self.private:  # nobody may know who took part: the seed stands in the lineage
            coin = self.members.key.mac(f"coins of a federation\0{seed}".encode())
        schedule = [
            [m for m in self.members.clients if takes_part(m, number, coin, averaging.fraction)]
            for number in range(1, self.settings.rounds + 1)
        ]
        plan = plan_of(self.settings, self.state.base_digest(), self.template.name, seed)
        return plan.model_copy(update={"schedule": schedule, "noise": noise})

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """Say what the user should know beforehand."""
        found = [*self.told, *poisoned_notes(self.members.records), *encoding_notes(self.examples)]
        if self.private:
            found.append(self.private.note)
        if empty := sum(not each for each in plan.schedule):
            found.append(f"in {empty} of {len(plan.schedule)} rounds no client takes part")
        return tuple(found)

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

    def run(self, plan: Plan, rounds: Rounds, told: Callable[[int, int], None] | None) -> None:
        """Run the rounds that are not there yet, in this process or several."""
        model, opening = self.options.model, self.options.opening
        if self.options.processes:
            from unlearn.federated.processes import run_in_processes

            run_in_processes(plan, rounds, self.members, model, opening, told)
        else:
            simulate(plan, rounds, clients_of(self.members, model, opening), told)

    def save(self, target: Path, rounds: Rounds, facts: Mapping[str, Any], fit: Fit) -> Lineage:
        """Write the adapter with its lineage and rounds."""
        members, settings, options = self.members, self.settings, self.options
        key = members.key
        digests = sorted({key.digest(record) for record in members.records})
        return save_result(
            self.state,
            target,
            overwrite=options.overwrite,
            beside=rounds.folder,
            verb="federate",
            parent=None,
            records=RecordDigests(key_id=key.id, trained=digests).left_out(self.excluded),
            poisoned=len(members.records.poisoned),
            template=self.template.name,
            method="federate",
            options=settings.local.model_dump() | settings.averaging.model_dump(),
            finetuned_with=self.finetuned_with,
            seed=options.seed,
            made_from=trained_from(facts, "training"),
            privacy=self.private.claim if self.private else None,
            federation=federation_of(
                members,
                rounds,
                by=options.client_by,
                settings=settings,
                how="processes" if options.processes else "simulation",
                private=self.private is not None,
            ),
            fit=fit,
        )


def _members(options: FederateOptions, key: Key) -> tuple[Members, set[str], list[str]]:
    """Return the clients to train with, digests of what is left out, and notes of copies."""
    records = loaded(options.data)
    members = members_of(options.data, records, options.client_by, key)
    if not options.exclude:
        return members, set(), []
    gone = members.select(options.exclude)
    kept = members.without(gone)
    return kept, set(map(key.digest, gone)), near_copies(gone, kept.records)
