"""`unlearn references`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rich.markup import escape

from unlearn.runs.options import ReferencesOptions

if TYPE_CHECKING:
    from unlearn.methods.job import TrainingPlan

__all__ = ["references"]


def references(options: ReferencesOptions) -> None:
    """Train the references of an audit.

    Each is an adapter of its own, DIR/reference-00 and so on, with its lineage: what `unlearn
    finetune` makes of the same records, settings and seed. Run it again to go on after an
    interruption, or for a larger --count: references that are there and were made alike are kept.

    References that never saw the records (--kind full) go to `unlearn audit --reference DIR`.
    Half-splits (--kind half) serve every request: they go to `unlearn audit --shadow DIR`, and to
    `unlearn request verify --references DIR`, which takes those that never saw its records. The
    others learned them: they are to go when a request is closed, as `unlearn request sweep` says.

    Example: unlearn references --model BASE --data records.jsonl --forget subject:ann
    --like adapter --count 8 --output references
    """
    from unlearn.apps.cli.screen import announce, console, progress_bar, show_note, show_plan
    from unlearn.runs.plan import references_plan
    from unlearn.runs.references import run_references

    if options.plan:
        plan = references_plan(options)
        if plan is None:
            console.print(f"{options.count} references are there: nothing is left to train")
        else:
            show_plan(plan)
        return
    told: list[str] = []

    def announced(plan: TrainingPlan) -> None:
        announce(plan)
        told.extend(plan.notes)

    with progress_bar("training") as progress:
        result = run_references(replace(options, announce=announced, progress=progress))
    for note in result.notes:
        if note not in told:
            show_note(note)
    where = escape(str(options.output))
    console.print(f"{options.count} references are in [bold]{where}[/bold]")
