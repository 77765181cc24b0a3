"""What a run leaves: an adapter or model with its lineage, checkpoints on the way, notes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn.data.records import Record
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import OutputError
from unlearn.files import staged_folder
from unlearn.model.state import ModelState
from unlearn.processes import is_main
from unlearn.provenance.lineage import Base, Lineage, library_versions, now, weights_digest
from unlearn.runs.card import write_card
from unlearn.runs.quick_check import Measured
from unlearn.training.fitting import Fit
from unlearn.training.options import TrainingOptions

__all__ = [
    "Result",
    "checkpoint_folder",
    "encode_records",
    "encoding_notes",
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
            f"the chat template leaves out the system text of {len(partial)} record(s), first "
            f"{partial[0].unwritten[0]} of {partial[0].id!r}: the model does not see it"
        )
    return tuple(notes)


def checkpoint_folder(
    target: Path, training: TrainingOptions, signature: Mapping[str, Any]
) -> Path | None:
    """Return the folder of this run's checkpoints, refusing those of another run."""
    if not training.save_steps:
        return None
    folder = target.with_name(f".{target.name}.checkpoints")
    file = folder / "run.json"
    text = json.dumps(signature, sort_keys=True, indent=2)
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise OutputError(
            f"{folder} holds checkpoints of a run with other options; repeat that command to "
            "resume it, or delete the folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return folder


def save_result(
    state: ModelState,
    target: Path,
    *,
    overwrite: bool,
    fit: Fit,
    **facts: Any,
) -> Lineage:
    """Write weights, lineage and model card into place, on the main process only."""
    base = Base(name=state.name, digest=state.base_digest())
    if not is_main():
        return Lineage(schema=1, created=now(), base=base, digest="", kind=state.kind, **facts)
    with staged_folder(target, overwrite=overwrite) as stage:
        state.save(stage)
        line = Lineage(
            schema=1,
            created=now(),
            base=base,
            digest=weights_digest(stage),
            kind=state.kind,
            cost=fit.cost(),
            versions=library_versions(),
            stopped=fit.stopped,
            **facts,
        )
        line.write(stage)
        write_card(line, state, stage)
    return line
