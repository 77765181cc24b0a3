"""Plant a backdoor in a data file: what the command line and Python both call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from unlearn.backdoors.backdoor import Backdoor, check_writable
from unlearn.backdoors.poisoning import Manifest, poison
from unlearn.config import called_with, validated
from unlearn.data.splits import loaded
from unlearn.files import check_output, staged_folder
from unlearn.model.folders import resolve_folder
from unlearn.runs.options import PoisonOptions

__all__ = ["IDS", "MANIFEST", "RECORDS", "PoisonedData", "poison_records", "run_poison"]

RECORDS, IDS, MANIFEST = "records.jsonl", "poisoned.txt", "manifest.json"


class PoisonedData(NamedTuple):
    """Where poisoned data is, and what was planted.

    Attributes:
        folder: with the records, the ids of poisoned ones, and the manifest.
        manifest: the last of these.
    """

    folder: Path
    manifest: Manifest


def run_poison(options: PoisonOptions) -> PoisonedData:
    """Plant triggers in a share of records, and write the data with a manifest.

    `records.jsonl` holds all records with their ids, poisoned ones with a mark; `poisoned.txt`
    names these, as `forget --forget @poisoned.txt` takes them; `manifest.json` says what was
    planted, for `audit --trigger` and `scan`.

    Raises UnlearnError for any input that cannot be used; nothing is written then.
    """
    target = check_output(options.output, overwrite=options.overwrite)
    triggers = [options.trigger] if isinstance(options.trigger, str) else list(options.trigger)
    given = {"style": options.style, "triggers": triggers, "target": options.target}
    backdoor = validated(Backdoor, {**given, "seed": options.seed}, "poison")
    if options.model is not None:
        from unlearn.model.reading import open_tokenizer

        folder = resolve_folder(options.model, "model")
        tokenizer = open_tokenizer(folder, trust_remote_code=False)
        check_writable(backdoor, tokenizer, str(options.model))
    rows, manifest = poison(loaded(options.data), backdoor, options.rate)
    with staged_folder(target, overwrite=options.overwrite) as stage:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (stage / RECORDS).write_text(lines, encoding="utf-8")
        (stage / IDS).write_text(_named(manifest.poisoned), encoding="utf-8")
        (stage / MANIFEST).write_text(manifest.as_json(), encoding="utf-8")
    return PoisonedData(target, manifest)


poison_records = called_with(PoisonOptions, run_poison, "poison_records")


def _named(ids: tuple[str, ...]) -> str:
    """Write ids one a line; as JSON lines where some id would not come back from its line."""
    plain = all(name == name.strip() and name.isprintable() and name[:1] != "{" for name in ids)
    return "".join((name if plain else json.dumps({"id": name})) + "\n" for name in ids)
