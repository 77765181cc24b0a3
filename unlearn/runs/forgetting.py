"""Fine-tune on records, and take records out again: what the command line and Python both call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn.canaries.pairs import joined
from unlearn.canaries.planted import lot_of
from unlearn.data.records import Records
from unlearn.data.splits import check_disjoint, loaded, retained
from unlearn.data.templates import choose_template
from unlearn.files import check_output
from unlearn.methods.alternates import Source, alternates
from unlearn.methods.defaults import decided
from unlearn.methods.job import Job, TrainingPlan
from unlearn.methods.registry import get_method, resolve
from unlearn.model.state import open_model
from unlearn.provenance import suppression
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, RecordDigests
from unlearn.runs.quick_check import Measured, measure, warnings_of
from unlearn.runs.saving import (
    Announce,
    Progress,
    Result,
    checkpoint_folder,
    cut_notes,
    encode_records,
    save_result,
)
from unlearn.training.fitting import sample

__all__ = ["Measured", "TrainingPlan", "forget"]

DEFAULT_METHOD = "pilot"


def forget(
    model: str | Path,
    data: str | Path | Records,
    forget: str,
    output: str | Path,
    *,
    adapter: str | Path | Sequence[str | Path] | None = None,
    method: str = DEFAULT_METHOD,
    holdout: str | Path | Records | None = None,
    retain: str | Path | Records | None = None,
    canaries: str | Path | None = None,
    with_canaries: int = 0,
    template: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    suppress: bool = False,
    announce: Announce | None = None,
    progress: Progress | None = None,
    **opening: Any,
) -> Result:
    """Take records out of an adapter (or a fully fine-tuned model) and save the result.

    Args:
        model: base model; without `adapter`, the fully fine-tuned model.
        data: the records it was trained on (or just those to forget, with `retain` given).
        forget: which of them to take out (IDS syntax).
        output: folder for the new adapter.
        adapter: the adapter to change, on top of any others before it.
        method: name of the method.
        holdout: records the model never saw: their loss is where forgetting stops.
        retain: records to keep, when `data` no longer holds the rest.
        canaries: file of those planted in the adapter: those still in it count as data.
        with_canaries: how many of them to take out beside the records.
        template: how records are written; by default what the adapter's lineage says.
        options: method and training options.
        seed: of data order and dropout.
        overwrite: replace an output folder that is not empty.
        suppress: put the records on the suppression list afterwards.
        announce: told the plan before training starts.
        progress: called with (steps done, steps planned).
        **opening: `dtype`, `device`, `trust_remote_code`, `load_in_4bit` of `open_model`.

    Returns:
        The saved adapter, with a first look before and after.

    Raises:
        UnlearnError: for any input that cannot be used; nothing is written then.
    """
    target = check_output(output, overwrite=overwrite)
    chosen_method = get_method(method)
    resolved = resolve(chosen_method, options or {})
    key = Key.load()
    lot = lot_of(canaries, with_canaries, model, adapter, key)
    records = joined(loaded(data), lot.left)
    gone = lot.gone(records, forget)
    kept = retained(records, gone, lot.retain(retain), needed=chosen_method.needs_retain)
    unseen = loaded(holdout) if holdout is not None else None
    check_disjoint(unseen, gone, kept)
    suppression.check_suppressed(kept, key)
    state = open_model(model, adapter, trainable=chosen_method.kind != "exact", **opening)
    parent = Lineage.read(state.adapter or state.folder)
    resolved, notes = decided(resolved, parent, len(gone))
    handed_down = lot.planted
    if parent and parent.canaries and lot.planted is None:
        notes.append(
            f"{parent.canaries.pairs} pairs of canaries were planted in the adapter, and nothing "
            "looks after them here: name their file with --canaries"
        )
        # retraining without them leaves nothing that they could show
        handed_down = None if chosen_method.kind == "exact" else parent.canaries
    name = template or (parent.template if parent else None)
    used = choose_template(name, state.tokenizer, records)
    if name is None:
        notes.append(
            f"no lineage says how the records were written: assuming the template {used.name!r}; "
            "pass --template if it was another"
        )
    split = {
        "forget": encode_records(gone, state, used, resolved.training),
        "retain": encode_records(kept, state, used, resolved.training),
        "holdout": encode_records(unseen, state, used, resolved.training) if unseen else [],
    }
    if chosen_method.alternates:
        split["alternate"] = alternates(
            Source(
                chosen_method.alternates,
                int(resolved.extra["alternate_count"]),
                resolved.extra["alternates"],
            ),
            gone,
            split["forget"],
            state,
            lambda rows: encode_records(rows, state, used, resolved.training),
            seed,
        )
    notes += cut_notes([e for part in split.values() for e in part])
    look = {name: sample(split[name]) for name in _LOOKED_AT if split[name]}
    before = {name: measure(state, part) for name, part in look.items()}
    checkpoints = checkpoint_folder(
        target,
        resolved.training,
        {
            "verb": "forget",
            "method": method,
            "options": resolved.as_dict(),
            "seed": seed,
            "parent": state.digest(),
            "forget": sorted(key.digest(r) for r in gone),
        },
    )
    job = Job(
        state, resolved, parent, split, seed, checkpoints, announce, progress, opening, tuple(notes)
    )
    state, done = job.run()
    after = {name: measure(state, part) for name, part in look.items()}
    how = done.training.model_dump()
    trained = {key.digest(r) for r in kept}
    if chosen_method.kind != "exact":
        trained |= {key.digest(r) for r in gone} | set(parent.records.trained if parent else ())
    forgotten = {key.digest(r) for r in gone} | set(parent.records.forgotten if parent else ())
    line = save_result(
        state,
        target,
        overwrite=overwrite,
        verb="forget",
        parent=None if chosen_method.kind == "exact" else job.state.digest(),
        records=RecordDigests(key_id=key.id, trained=sorted(trained), forgotten=sorted(forgotten)),
        canaries=handed_down,
        template=used.name,
        method=method,
        options=resolved.as_dict() | how,
        finetuned_with=(parent.finetuned_with if parent else {})
        | ({"training": how} if chosen_method.kind == "exact" else {}),
        seed=seed,
        fit=done,
    )
    if suppress:
        own = lot.without(gone)
        path = suppression.suppress(own, f"taken out by {method}", key)
        notes.append(f"{len(own)} record(s) are on the suppression list {path}")
    notes += warnings_of(before, after)
    return Result(target, line, done, before, after, tuple(notes))


# What a first look before and after is taken of.
_LOOKED_AT = ("forget", "retain", "holdout")
