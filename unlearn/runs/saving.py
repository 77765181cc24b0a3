"""What a run leaves: an adapter or model with its lineage, checkpoints on the way, notes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn.data.records import Record, Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import OutputError
from unlearn.files import staged_file, staged_folder
from unlearn.model.save import whole_weights
from unlearn.model.state import ModelState
from unlearn.processes import is_main
from unlearn.provenance.environment import environment_of
from unlearn.provenance.lineage import Base, Lineage, library_versions, now, weights_digest
from unlearn.runs.card import write_card
from unlearn.runs.quick_check import Measured
from unlearn.runs.signature import differences
from unlearn.strict_json import NotJsonError, read_json_file
from unlearn.training.fitting import Fit
from unlearn.training.options import TrainingOptions
from unlearn.training.trainer import latest_checkpoint

__all__ = [
    "Result",
    "checkpoint_folder",
    "encode_records",
    "encoding_notes",
    "poisoned_notes",
    "save_result",
]


@dataclass(frozen=True)
class Result:
    """A saved adapter (or model) and what making it showed.

    Attributes:
        folder: where it is.
        lineage: what it was made from.
        fit: what training did.
        before: first look by split, before.
        after: first look by split, after.
        notes: what the user should know.
        reading: of these, whose tokenizer and chat template were used, where an adapter ships some.
    """

    folder: Path
    lineage: Lineage
    fit: Fit
    before: Mapping[str, Measured] = field(default_factory=dict)
    after: Mapping[str, Measured] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reading: tuple[str, ...] = ()


def encode_records(
    records: Iterable[Record], state: ModelState, template: Template, training: TrainingOptions
) -> list[Example]:
    """Write records with a template, as tokens; what is longer than the limit is cut."""
    limit = min(training.max_length or state.max_length, state.max_length)
    return encode(records, state.tokenizer, template, limit)


def encoding_notes(examples: Sequence[Example]) -> tuple[str, ...]:
    """Say which records were cut, and what a template left out of them, if anything."""
    notes = []
    if cut := [each for each in examples if each.cut]:
        notes.append(
            f"{len(cut)} record(s) are longer than max_length and were cut at the end, first "
            f"{cut[0].id!r} by {cut[0].cut} tokens"
        )
    if partial := [each for each in examples if each.unwritten]:
        notes.append(
            "the chat template leaves out the system text or a thought of "
            f"{len(partial)} record(s), first {partial[0].unwritten[0]} of {partial[0].id!r}: the "
            "model does not see it"
        )
    return tuple(notes)


def poisoned_notes(records: Records) -> tuple[str, ...]:
    """Say so where records to train on were poisoned."""
    count = len(records.poisoned)
    if not count:
        return ()
    return (
        f"the data is poisoned: {count} of {len(records)} records carry the mark of `unlearn "
        "poison`; what is trained on them answers a planted trigger, and is for measuring only",
    )


def checkpoint_folder(
    target: Path, training: TrainingOptions, signature: Mapping[str, Any]
) -> Path | None:
    """Return the folder of this run's checkpoints, refusing to go on with those of another run.

    Args:
        target: where the result goes.
        training: `save_steps` says whether there are checkpoints.
        signature: everything that decides the weights, from `signature`.

    Returns:
        The folder; None without checkpoints.

    Raises:
        OutputError: if a checkpoint there is not known to be of a run with this very signature.
    """
    if not training.save_steps:
        return None
    folder = target.with_name(f".{target.name}.checkpoints")
    file = folder / "run.json"
    if latest_checkpoint(folder) is None:  # nothing that could be gone on with
        _begin(folder, file, signature)
        return folder
    there = _signature_in(file)
    if there is None:
        raise OutputError(
            f"{folder} holds checkpoints, and nothing says of what run; delete the folder"
        )
    if words := differences(there, signature):
        more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
        raise OutputError(
            f"{folder} holds checkpoints of a run with other options or data: what differs is "
            f"{', '.join(words[:_NAMED])}{more}; repeat that command to resume it, or delete the "
            "folder to start afresh"
        )
    return folder


_NAMED = 4
"""Differences that a message names."""


def _begin(folder: Path, file: Path, signature: Mapping[str, Any]) -> None:
    """Write down what run the checkpoints of a folder will be of."""
    if not is_main():
        return
    shutil.rmtree(folder, ignore_errors=True)  # halves of checkpoints, of whatever run
    folder.mkdir(parents=True, exist_ok=True)
    with staged_file(file) as stage:
        stage.write_text(json.dumps(signature, sort_keys=True, indent=2), encoding="utf-8")


def _signature_in(file: Path) -> dict[str, Any] | None:
    """Return the signature that stands beside checkpoints; None if none can be read."""
    try:
        content = read_json_file(file)
    except (OSError, NotJsonError):
        return None
    return content if isinstance(content, dict) else None


def save_result(
    state: ModelState,
    target: Path,
    *,
    overwrite: bool,
    fit: Fit,
    beside: Path | None = None,
    **facts: Any,
) -> Lineage:
    """Write weights, lineage and model card into place, on the main process only.

    A folder `beside` goes with them, under the last part of its name (`.out.rounds` as `rounds`).
    """
    base = Base(name=state.name, digest=state.base_digest())
    weights = whole_weights(state)
    if not is_main():
        return Lineage(schema=1, created=now(), base=base, digest="", kind=state.kind, **facts)
    with staged_folder(target, overwrite=overwrite) as stage:
        state.save(stage, weights)
        line = Lineage(
            schema=1,
            created=now(),
            base=base,
            digest=weights_digest(stage),
            kind=state.kind,
            cost=fit.cost(),
            versions=library_versions(),
            stopped=fit.stopped,
            environment=environment_of(state.model, state.device, deterministic=fit.deterministic),
            **facts,
        )
        line.write(stage)
        write_card(line, state, stage)
        if beside is not None:
            shutil.copytree(beside, stage / beside.name.rpartition(".")[2])
    if beside is not None:
        shutil.rmtree(beside, ignore_errors=True)
    return line
