"""Take a client out of a federated adapter: what the command line and Python both call."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearn.config import called_with
from unlearn.data.records import Records
from unlearn.data.splits import loaded, near_copies
from unlearn.data.templates import Template, choose_template
from unlearn.data.tokenization import Example
from unlearn.errors import DataError, LineageError, ModelError, OptionError
from unlearn.federated.flower import check_flower
from unlearn.federated.history import FOLDER, Rounds
from unlearn.federated.local_training import set_weights
from unlearn.federated.members import Members, members_of
from unlearn.federated.removal import EXACT, METHODS, Done, Removal, method_of
from unlearn.federated.running import (
    clients_of,
    federation_of,
    fit_of,
    losses_told,
    resumed,
)
from unlearn.federated.settings import Settings, plan_of, settings_in
from unlearn.files import check_output
from unlearn.model.folders import resolve_folder, stacked
from unlearn.model.state import ModelState, new_adapter
from unlearn.processes import if_interrupted, world_size
from unlearn.provenance.environment import environment_of
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import (
    Federation,
    Lineage,
    RecordDigests,
    library_versions,
    weights_digest,
)
from unlearn.provenance.suppression import check_suppressed, suppress
from unlearn.recipe import ForgetRecipe, load_recipe
from unlearn.runs.options import ForgetOptions
from unlearn.runs.progress import shown
from unlearn.runs.quick_check import measure, warnings_of
from unlearn.runs.saving import Result, encode_records, save_result
from unlearn.runs.signature import differences, signature, trained_from
from unlearn.training.fitting import Fit, sample

__all__ = ["forget_federated", "is_federated", "run_forget_federated", "takes"]


def is_federated(adapter: str | Path | Sequence[str | Path] | None) -> bool:
    """Say whether what is named as an adapter is a federated one with its rounds, and alone."""
    places = stacked(adapter)
    folder = Path(places[0]).expanduser() if len(places) == 1 else None
    if folder is None or not (folder / FOLDER).is_dir():
        return False
    line = Lineage.read(folder)
    return line is not None and line.federation is not None


def takes(options: ForgetOptions) -> bool:
    """Say whether what is asked works on the rounds of a federation, not on records alone.

    Args:
        options: of `forget`.

    Returns:
        True for the ways of a federation alone, and for retraining of a federated adapter.
    """
    method = _method(options)
    return method in {*METHODS} - {EXACT} or (
        method in {None, EXACT} and is_federated(options.adapter)
    )


def run_forget_federated(options: ForgetOptions) -> Result:
    """Take a client, or some records, out of a federated adapter, and save a new one.

    `client:NAME` names all records of a client. The rounds beside the adapter say what everybody
    did; by `--method retrain`, the default, they are replayed without the records from before the
    client first took part, which is exact. `fed_eraser` and `local_npo` approximate that.

    Raises UnlearnError for any input that cannot be used; nothing is written then.
    """
    check_flower()
    _check(options)
    options = _with_recipe(options)
    way = method_of(options.method or EXACT)
    old = _Old.read(options)
    target = check_output(options.output, overwrite=options.overwrite)
    asked = old.members.select(options.forget)
    cut = _Cut.of(old, {old.members.key.digest(record) for record in asked})
    check_suppressed(cut.kept.records, old.members.key, advice="name them in --forget, too")
    run = _Run.of(options, old, cut)
    looked = {"forget": run.encoded(asked), "retain": run.encoded(cut.kept.records)}
    before = {split: measure(run.state, sample(part)) for split, part in looked.items()}
    facts = run.facts(looked["retain"])
    rounds = resumed(target, facts)
    with (
        shown(options.progress, "unlearning", "rounds") as progress,
        if_interrupted(lambda: "whole rounds are kept, and the same command goes on with them"),
    ):
        done = way(run.removal(rounds, progress))
    set_weights(run.state, rounds.weights(rounds.last()))
    after = {split: measure(run.state, sample(part)) for split, part in looked.items()}
    cost, fit = run.cost(rounds, done), run.fit(rounds, done)
    lost = losses_told([rounds.round(number) for number in done.replayed])
    line = run.save(target, rounds, done, facts)
    notes = [*near_copies(asked, cut.kept.records), *cut.notes, *done.notes, cost]
    notes += lost
    if options.suppress:
        path = suppress(asked, f"taken out by {run.method}", old.members.key)
        notes.append(f"{len(asked)} record(s) are on the suppression list {path}")
    notes += warnings_of(before, after)
    return Result(target, line, fit, before, after, tuple(notes))


forget_federated = called_with(ForgetOptions, run_forget_federated, "forget_federated")


def _check(options: ForgetOptions) -> None:
    """Refuse what the rounds of a federation do not take."""
    if not is_federated(options.adapter):
        raise ModelError(
            f"{options.adapter} is no federated adapter with its rounds; `unlearn federate` makes "
            "one"
        )
    if world_size() > 1:
        raise OptionError("a federation runs in one process: start the command without a launcher")
    names = (
        "start",
        "canaries",
        "with_canaries",
        "report_to",
        "plan",
        "retain",
        "holdout",
    )
    for name in names:
        if getattr(options, name):
            raise OptionError(
                f"--{name.replace('_', '-')} is not for the rounds of a federation; its adapter "
                "takes it with a --method that works on records alone, such as npo"
            )


def _method(options: ForgetOptions) -> str | None:
    """Return the method that is asked for; None by default, or where a recipe is of no method."""
    if options.method or not options.recipe:
        return options.method
    return load_recipe(options.recipe, ForgetRecipe).method


def _with_recipe(options: ForgetOptions) -> ForgetOptions:
    """Return the options with method and options of the recipe, where none are given."""
    if not options.recipe:
        return options
    recipe = load_recipe(options.recipe, ForgetRecipe)
    same = options.method in {None, recipe.method}
    chosen = {**(recipe.options if same else {}), **options.options}
    return replace(options, recipe=None, method=options.method or recipe.method, options=chosen)


@dataclass(frozen=True)
class _Old:
    """A federated adapter as it is: its lineage, its rounds, and the data at hand by client."""

    folder: Path
    line: Lineage
    rounds: Rounds
    members: Members
    settings: Settings

    @classmethod
    def read(cls, options: ForgetOptions) -> _Old:
        """Read an adapter whose rounds are those that its lineage tells of."""
        folder, key = resolve_folder(stacked(options.adapter)[0], "adapter"), Key.load()
        line = Lineage.read(folder)
        assert line is not None
        assert line.federation is not None
        if line.records.key_id != key.id:
            raise LineageError(
                f"{folder} was made with the key {line.records.key_id}, and the key in use is "
                f"{key.id}: which client has which record cannot be told; set UNLEARN_KEY to that "
                "key, or UNLEARN_HOME to the folder of its file"
            )
        if line.privacy is not None:
            raise LineageError(
                f"{folder} was trained with differential privacy, and a replay would need its "
                "noise: run its `unlearn federate --dp` again with --exclude"
            )
        rounds = Rounds(folder / FOLDER)
        if line.digest != weights_digest(folder) or line.federation.digest != rounds.digest():
            raise LineageError(
                f"{folder}: its weights, or the rounds in {FOLDER}/, are not those that its "
                "lineage names: put back the folder as it was made"
            )
        if not METHODS.get(line.method) and line.method != "federate":
            raise LineageError(f"{folder}: {line.method} made it, and its rounds are not known")
        if line.method not in {"federate", EXACT}:
            raise LineageError(
                f"{folder} was made by {line.method}, which approximates: its rounds are not those "
                "of a federation that could be replayed; name the adapter before it"
            )
        records = loaded(options.data)
        members = members_of(options.data, records, line.federation.by, key)
        return cls(folder, line, rounds, members, settings_in(line))

    @property
    def federation(self) -> Federation:
        """Who took part in what."""
        assert self.line.federation is not None
        return self.line.federation


@dataclass(frozen=True)
class _Cut:
    """Which records stay and which go, by client.

    Attributes:
        kept: those that stay, of clients that were trained with.
        lost: those that go.
        gone: digests of all that are to go.
        absent: digests of those that are in nobody's data any more, and so go, too.
        first: the first round in which one that loses records took part.
        notes: what the user should know.
    """

    kept: Members
    lost: Members
    gone: frozenset[str]
    absent: frozenset[str]
    first: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, old: _Old, gone: Collection[str]) -> _Cut:
        """Divide the data at hand as the lineage says who was trained on what."""
        members, key = old.members, old.members.key
        held = {each.client: set(each.records) for each in old.federation.members}
        by = {name: mac for mac, name in members.clients.items()}
        digests = [key.digest(record) for record in members.records]
        own = [
            digest in held.get(by[name], ())
            for name, digest in zip(members.names, digests, strict=True)
        ]
        stay = [i for i, mine in enumerate(own) if mine and digests[i] not in gone]
        go = [i for i, mine in enumerate(own) if mine and digests[i] in gone]
        if not stay:
            raise DataError("no record of the federation would be left")
        there = {(by[members.names[i]], digests[i]) for i in (*stay, *go)}
        missing = [
            (mac, digest)
            for mac, records in held.items()
            for digest in records - set(gone)
            if (mac, digest) not in there
        ]
        notes = []
        if missing:
            notes.append(
                f"{len(missing)} record(s) that clients were trained on are not in the data any "
                "more: they are taken out, too"
            )
        touched = {mac for mac, records in held.items() if not records.isdisjoint(gone)}
        touched |= {mac for mac, _ in missing}
        numbers = [
            n for each in old.federation.members if each.client in touched for n in each.rounds
        ]
        if not touched:
            notes.append("no client was trained on these records, by the lineage")
        first = min(numbers, default=old.rounds.last() + 1)
        absent = {digest for _, digest in missing} - {digests[i] for i in stay}
        return cls(
            kept=members.part(stay),
            lost=members.part(go),
            gone=frozenset(gone),
            absent=frozenset(absent),
            first=first,
            notes=tuple(notes),
        )


def _elsewhere(line: Lineage, state: ModelState) -> list[str]:
    """Say in what versions, threads or machine differ from those that trained an adapter."""
    here = environment_of(state.model, state.device, deterministic=True)
    words = differences(line.environment, here)
    return words + differences(line.versions, library_versions())


@dataclass(frozen=True)
class _Run:
    """A removal under way: what is asked, of what, and the opened model."""

    options: ForgetOptions
    old: _Old
    cut: _Cut
    state: ModelState
    template: Template

    @classmethod
    def of(cls, options: ForgetOptions, old: _Old, cut: _Cut) -> _Run:
        """Open the base with the adapter as it is."""
        opened = options.open(options.model)
        if opened.base_digest() != old.line.base.digest:
            raise ModelError(f"{old.folder} was trained on another base than {opened.name}")
        state = new_adapter(opened, old.settings.lora.model_dump(), old.line.seed)
        set_weights(state, old.rounds.weights(old.rounds.last()))
        words = _elsewhere(old.line, state)
        if words and cut.first > 1:
            # a part of the rounds would be rounded otherwise than the rest
            note = f"trained elsewhere ({', '.join(words[:3])}): all rounds are run again"
            cut = replace(cut, first=1, notes=(*cut.notes, note))
        template = choose_template(old.line.template, state.tokenizer)
        return cls(options, old, cut, state, template)

    @property
    def method(self) -> str:
        """Name of the way."""
        return self.options.method or EXACT

    @property
    def exact(self) -> bool:
        """Whether the result never met the records."""
        return self.method == EXACT

    def encoded(self, records: Records) -> list[Example]:
        """Return records as tokens."""
        return encode_records(records, self.state, self.template, self.old.settings.local)

    def facts(self, retain: Sequence[Example]) -> dict[str, Any]:
        """Return everything that decides the weights."""
        key = self.old.members.key
        content = {key.digest(record): i for i, record in enumerate(self.cut.kept.records)}
        digests = sorted(content)
        return signature(
            self.state,
            {"retain": (digests, [retain[content[digest]] for digest in digests])},
            key,
            self.template,
            verb="forget",
            method=self.method,
            parent=self.old.line.digest,
            gone=sorted(self.cut.gone),
            options=dict(self.options.options),
            seed=self.old.line.seed,
            **self.old.line.finetuned_with,
        )

    def removal(self, rounds: Rounds, told: Any) -> Removal:
        """Return what a way works on."""
        line, settings = self.old.line, self.old.settings
        plan = plan_of(settings, line.base.digest, self.template.name, line.seed)
        model, opening = self.options.model, self.options.opening
        kept, gone = (clients_of(part, model, opening) for part in (self.cut.kept, self.cut.lost))
        chosen = self.options.options
        drift = float((line.budget.get("kept_loss") or {}).get("drift") or 0.0)
        first = self.cut.first
        return Removal(self.old.rounds, rounds, plan, kept, gone, first, chosen, told, drift)

    def fit(self, rounds: Rounds, done: Done) -> Fit:
        """Return what the rounds of it took, as a training's result."""
        made = [rounds.round(number) for number in done.replayed]
        return fit_of(made, self.old.settings, len(made))

    def cost(self, rounds: Rounds, done: Done) -> str:
        """Say what it took beside training everything again without the records."""
        left = set(self.cut.kept.clients)
        parts = [part for each in self.old.rounds.all() for part in each.parts]
        whole = sum(part.tokens for part in parts if part.client in left)
        own = self.fit(rounds, done).tokens
        share = own / max(1, whole)
        return f"this took {own:,} tokens, {share:.0%} of training everything again without them"

    def save(self, target: Path, rounds: Rounds, done: Done, facts: Mapping[str, Any]) -> Lineage:
        """Write the new adapter with its lineage and rounds."""
        line, kept = self.old.line, self.cut.kept
        key = kept.key
        forgotten = self.cut.gone | set(line.records.forgotten)
        forgotten |= self.cut.absent if self.exact else set()
        trained = {key.digest(record) for record in kept.records}
        if not self.exact:
            trained |= set(line.records.trained)
        digests = RecordDigests(key_id=key.id, trained=sorted(trained), forgotten=sorted(forgotten))
        by, settings = self.old.federation.by, self.old.settings
        return save_result(
            self.state,
            target,
            overwrite=self.options.overwrite,
            beside=rounds.folder,
            verb="forget",
            parent=None if self.exact else line.digest,
            records=digests.left_out(forgotten) if self.exact else digests,
            poisoned=len(kept.records.poisoned) if self.exact else line.poisoned,
            template=line.template,
            method=self.method,
            options={**line.options, **self.options.options},
            finetuned_with=line.finetuned_with,
            seed=line.seed,
            made_from=trained_from(facts, "retain") if self.exact else {},
            budget=dict(done.budget),
            federation=federation_of(kept, rounds, by=by, settings=settings, how="simulation"),
            fit=self.fit(rounds, done),
        )
