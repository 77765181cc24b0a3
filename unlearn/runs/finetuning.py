"""Fine-tune on records: what the command line and Python both call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unlearn.canaries.pairs import Canaries, beside, joined, plan_for
from unlearn.config import called_with
from unlearn.data.records import Records
from unlearn.data.splits import loaded, near_copies, without_copies
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import Example
from unlearn.errors import SelectionError
from unlearn.files import check_output
from unlearn.losses import NLL
from unlearn.methods.job import TrainingPlan
from unlearn.model.state import ModelState, new_adapter
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import RecordDigests
from unlearn.provenance.suppression import check_suppressed
from unlearn.runs.options import FinetuneOptions
from unlearn.runs.progress import shown
from unlearn.runs.quick_check import measure
from unlearn.runs.saving import (
    Result,
    checkpoint_folder,
    encode_records,
    encoding_notes,
    poisoned_notes,
    save_result,
)
from unlearn.runs.signature import signature, trained_from
from unlearn.training.expected_time import expected_seconds
from unlearn.training.fitting import fit, sample, total_steps
from unlearn.training.memory import Work
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions, finetuning_options
from unlearn.training.private.options import check_private, privacy_options
from unlearn.training.private.promise import PrivateTraining, units_of
from unlearn.training.tokens import tokens_of
from unlearn.training.trackers import tracking_of

__all__ = ["finetune", "run_finetune", "without_excluded"]


def run_finetune(options: FinetuneOptions) -> Result:
    """Train a LoRA adapter, or the whole model, on records, and save it with its lineage.

    Raises UnlearnError for any input that cannot be used; nothing is written then.
    """
    target = check_output(options.output, overwrite=options.overwrite)
    training, lora = finetuning_options(options.options, options.lora, "finetune")
    promise = privacy_options(options.dp)
    if promise:
        trackers = options.report_to is not None
        check_private(options.options, training, lora, full=options.full, trackers=trackers)
    key = Key.load()
    records, excluded, copies = without_excluded(loaded(options.data), options.exclude, key)
    check_suppressed(records, key, advice="leave them out with --exclude")
    planting = _Planting(beside(target), records, options.canaries, key)
    canaries = planting.draw()
    state = options.open(options.model, trainable=options.full)
    if not options.full:
        state = new_adapter(state, lora.model_dump(), options.seed)
    template = choose_template(options.template, state.tokenizer, records)

    def encoded() -> tuple[Records, list[Example]]:
        trained = joined(records, canaries.included) if canaries else records
        return trained, encode_records(trained, state, template, training)

    trained, examples = encoded()
    private = None
    if promise:
        private = PrivateTraining.of(
            promise, training, units_of(promise, [*trained], options.canaries)
        )
    notes = (*copies, *poisoned_notes(trained), *encoding_notes(examples))
    notes += (private.note,) if private else ()
    shape = None if options.full else lora.model_dump()
    settings: dict[str, Any] = {"training": training.model_dump(), "lora": shape}
    if private:
        settings["privacy"] = private.settings
    if options.announce:
        steps = private.steps if private else total_steps(training, len(examples))
        options.announce(_plan(options, state, examples, training, steps, notes))
    if canaries:
        canaries = planting.publish(canaries)
        trained, examples = encoded()  # of several processes another may have been first
        notes += (planting.note,)
    digests = [key.digest(record) for record in trained]
    record_digests = RecordDigests(key_id=key.id, trained=sorted(set(digests))).left_out(excluded)
    facts = signature(
        state,
        {"training": (digests, examples)},
        key,
        template,
        verb="finetune",
        seed=options.seed,
        canaries=canaries.commitment.sha256 if canaries else None,
        **settings,
    )
    with tracking_of(options.report_to, target), shown(options.progress, "training") as progress:
        folder = checkpoint_folder(target, training, facts)
        run: dict[str, Any] = {"seed": options.seed, "checkpoints": folder, "progress": progress}
        if private:
            training_facts = private.fit(state, examples, facts, key, **run)
        else:
            training_facts = fit(state, Objective(retain=NLL()), training, retain=examples, **run)
    line = save_result(
        state,
        target,
        overwrite=options.overwrite,
        verb="finetune",
        parent=None,
        records=record_digests,
        canaries=canaries.commitment if canaries else None,
        poisoned=len(trained.poisoned),
        template=template.name,
        method="finetune",
        options=settings["training"],
        finetuned_with=settings,
        seed=options.seed,
        made_from=trained_from(facts, "training"),
        privacy=private.claim if private else None,
        fit=training_facts,
    )
    after = {"train": measure(state, sample(examples))}
    return Result(target, line, training_facts, after=after, notes=notes + training_facts.notes)


finetune = called_with(FinetuneOptions, run_finetune, "finetune")


def _plan(
    options: FinetuneOptions,
    state: ModelState,
    examples: Sequence[Example],
    training: TrainingOptions,
    steps: int,
    notes: tuple[str, ...],
) -> TrainingPlan:
    """Say what is about to be trained."""
    what = "the whole model" if options.full else "an adapter"
    objective = Objective(retain=NLL())
    seconds = expected_seconds(state, objective, training, steps, retain=examples)
    text = f"train {what} on {len(examples)} records"
    tokens = tokens_of(training, steps, (), examples)
    # gradients of single records take memory of their own, which nobody counts
    work = None if options.dp else Work(objective, training, steps, (), examples, seed=options.seed)
    return TrainingPlan(text, steps, seconds, notes, tokens, work=work)


class Chosen(NamedTuple):
    """The records to train on, digests of those that must not be, and notes of copies."""

    records: Records
    excluded: set[str]
    notes: list[str]


def without_excluded(records: Records, exclude: str | None, key: Key) -> Chosen:
    """Return the records but those to leave out, wherever their content stands."""
    if not exclude:
        return Chosen(records, set(), [])
    excluded = records.select(exclude)
    kept = without_copies(records, excluded)
    if not len(kept.records):
        raise SelectionError("--exclude leaves no record to train on")
    notes = kept.notes + near_copies(excluded, kept.records)
    return Chosen(kept.records, set(map(key.digest, excluded)), notes)


class _Planting:
    """Canaries of a run, if it plants any: drawn before a model is opened, published after."""

    def __init__(self, file: Path, records: Records, count: int, key: Key) -> None:
        self._run = (file, records, count, key)
        self.note = (
            f"{count} pairs of canaries were planted; keep {file}, apart from the adapter: only "
            "with it can they be used, and whoever reads it knows them"
        )

    def draw(self) -> Canaries | None:
        """Return those that an earlier attempt published, else new ones, in memory only."""
        return plan_for(*self._run) if self._run[2] else None

    def publish(self, canaries: Canaries) -> Canaries:
        """Write their file, and return what it then holds: of several processes one is first."""
        canaries.publish(self._run[0])
        return plan_for(*self._run)
