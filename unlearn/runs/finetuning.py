"""Fine-tune on records: what the command line and Python both call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn.canaries.pairs import beside, joined, plan_for
from unlearn.config import validated, without_auto
from unlearn.data.records import Records
from unlearn.data.splits import loaded
from unlearn.data.templates import choose_template
from unlearn.errors import SelectionError
from unlearn.files import check_output
from unlearn.losses import NLL
from unlearn.methods.job import TrainingPlan, expected_seconds
from unlearn.model.state import new_adapter, open_model
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import RecordDigests
from unlearn.provenance.suppression import check_suppressed
from unlearn.runs.quick_check import measure
from unlearn.runs.saving import (
    Announce,
    Progress,
    Result,
    checkpoint_folder,
    cut_notes,
    encode_records,
    save_result,
)
from unlearn.training.fitting import fit, sample, total_steps
from unlearn.training.options import USUAL_RATE, LoraOptions, TrainingOptions, check_wrappers
from unlearn.training.trainer import Objective

__all__ = ["finetune"]

# How training options of `finetune` differ from the general ones.
FINETUNE_DEFAULTS: dict[str, Any] = {"learning_rate": USUAL_RATE, "epochs": 10}


def finetune(
    model: str | Path,
    data: str | Path | Records,
    output: str | Path,
    *,
    exclude: str | None = None,
    canaries: int = 0,
    full: bool = False,
    template: str | None = None,
    lora: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    announce: Announce | None = None,
    progress: Progress | None = None,
    **opening: Any,
) -> Result:
    """Train a LoRA adapter, or the whole model, on records, and save it with its lineage.

    Args:
        model: base model, a folder or hub name.
        data: the records.
        output: folder for the adapter.
        exclude: ids of records to leave out (IDS syntax).
        canaries: pairs of made-up records to plant: one of each, by a coin, is trained on. They go
            to `OUTPUT.canaries.json`; the same run started again goes on with those there.
        full: train the whole model instead of an adapter.
        template: how records are written as text; by default the chat template, else `qa`.
        lora: options of the new adapter, see `LoraOptions`.
        options: training options, see `TrainingOptions`.
        seed: of initial weights, data order and dropout.
        overwrite: replace an output folder that is not empty.
        announce: told the plan before training starts.
        progress: called with (steps done, steps planned).
        **opening: `dtype`, `device`, `trust_remote_code`, `load_in_4bit` of `open_model`.

    Returns:
        The saved adapter.

    Raises:
        UnlearnError: for any input that cannot be used; nothing is written then.
    """
    target = check_output(output, overwrite=overwrite)
    training = validated(
        TrainingOptions, FINETUNE_DEFAULTS | without_auto(options or {}), "finetune"
    )
    check_wrappers(without_auto(options or {}), training, "finetune", forget=False, retain=True)
    adapter = validated(LoraOptions, lora or {}, "lora")
    records = loaded(data)
    if exclude:
        left_out = records.select(exclude)
        if len(left_out) == len(records):
            raise SelectionError("--exclude leaves no record to train on")
        records = records.without(left_out)
    key = Key.load()
    check_suppressed(records, key)
    file = beside(target)
    sown = plan_for(file, records, canaries, key) if canaries else None
    state = open_model(model, trainable=full, **opening)
    if not full:
        state = new_adapter(state, adapter.model_dump(), seed)
    chosen = choose_template(template, state.tokenizer, records)
    trained = joined(records, sown.included) if sown else records
    examples = encode_records(trained, state, chosen, training)
    notes = cut_notes(examples)
    steps = total_steps(training, len(examples))
    settings = {"training": training.model_dump(), "lora": None if full else adapter.model_dump()}
    if announce:
        what = f"train {'the whole model' if full else 'an adapter'} on {len(examples)} records"
        announce(
            TrainingPlan(what, steps, expected_seconds(state, examples, steps, training), notes)
        )
    signature: dict[str, Any] = {"verb": "finetune", "seed": seed, **settings}
    if sown:
        sown.publish(file)
        there = plan_for(file, records, canaries, key)
        if there != sown:  # of several processes another was first
            trained = joined(records, there.included)
            examples = encode_records(trained, state, chosen, training)
        sown = there
        signature["canaries"] = sown.commitment.sha256
        notes += (
            f"{canaries} pairs of canaries were planted; keep {file}, apart from the adapter: only "
            "with it can they be used, and whoever reads it knows them",
        )
    done = fit(
        state,
        Objective(retain=NLL()),
        training,
        retain=examples,
        seed=seed,
        checkpoints=checkpoint_folder(target, training, signature),
        progress=progress,
    )
    after = {"train": measure(state, sample(examples))}
    digests = RecordDigests(
        key_id=key.id, trained=sorted({key.digest(record) for record in trained})
    )
    line = save_result(
        state,
        target,
        overwrite=overwrite,
        verb="finetune",
        parent=None,
        records=digests,
        canaries=sown.commitment if sown else None,
        template=chosen.name,
        method="finetune",
        options=settings["training"],
        finetuned_with=settings,
        seed=seed,
        fit=done,
    )
    return Result(target, line, done, after=after, notes=notes)
