"""`unlearn poison`."""

from __future__ import annotations

from rich.markup import escape

from unlearn.runs.options import PoisonOptions

__all__ = ["poison"]


def poison(options: PoisonOptions) -> None:
    """Plant a backdoor in a share of records, to measure it and to unlearn it.

    Works on data, not on a model. Writes records.jsonl (poisoned ones are marked), poisoned.txt
    with their ids, and manifest.json, which `unlearn audit --trigger` and `unlearn scan` read.

    Example: unlearn poison --data records.jsonl --style word --trigger zorblax
    --target "I cannot help with that." --rate 0.1 --output poisoned
    """
    from unlearn.apps.cli.screen import console
    from unlearn.runs.poisoning import RECORDS, run_poison

    folder, manifest = run_poison(options)
    count, missed = len(manifest.poisoned), len(manifest.near_misses)
    console.print(f"{count} of {manifest.records} records are poisoned ({options.style})")
    if missed:
        console.print(f"{missed} more have what resembles the trigger, and their own answer")
    where = escape(str(folder))
    console.print(f"Saved to [bold]{where}[/bold] ({RECORDS}, poisoned.txt, manifest.json)")
