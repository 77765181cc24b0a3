"""`unlearn audit`."""

from __future__ import annotations

from dataclasses import KW_ONLY, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from rich.markup import escape

from unlearn.config import options
from unlearn.runs.fields import Data, Folder, Model
from unlearn_eval.audit.options import AuditOptions

if TYPE_CHECKING:
    from unlearn_eval.results.rows import Audit

__all__ = ["AuditFlags", "audit"]


@options
class AuditFlags(AuditOptions):
    """Of `unlearn audit`, which always writes what it found; the required ones are listed first."""

    _: KW_ONLY
    model: Model
    data: Data
    output: Folder = Field()
    plan: Annotated[
        bool,
        Field(
            description="Say what it takes, in tokens, memory and time; measure nothing, and note "
            "no look."
        ),
    ] = False


def audit(options: AuditFlags) -> None:
    """Measure what an adapter still knows of records that were taken out.

    Compares the adapter with itself before, with references that never saw the records, and with
    the base. Writes report.html for people, audit.json for programs and scores.parquet. For a full
    fine-tune, leave --adapter out and name models with --before and --reference. What was taken out
    is named with --forget, or is canaries. Of a folder of shards it scores the records under every
    shard, and writes routes.json; a shard that was touched is audited as any other adapter.

    Example: unlearn audit --model BASE --adapter cleaned --before adapter --reference retrained
    --data records.jsonl --forget subject:ann --holdout unseen.jsonl --output audit
    """
    from unlearn.apps.cli.screen import console, progress_bar, show_note, show_plan
    from unlearn.errors import OptionError
    from unlearn.shards.files import is_sharded
    from unlearn_eval.audit.plan import audit_plan
    from unlearn_eval.audit.run import audit_of

    if is_sharded(options.adapter):
        if options.plan:
            raise OptionError("--plan is not for a folder of shards: name one of its adapters")
        _routes(options)
        return
    if options.plan:
        show_plan(audit_plan(options))
        return
    with progress_bar("scoring", "records") as progress:
        result = audit_of(replace(options, announce=show_note, progress=progress))
    _show(result)
    where = escape(str(options.output))
    console.print(f"Saved to [bold]{where}[/bold] (audit.json, scores.parquet)")
    console.print(f"Look at  [bold]{where}/report.html[/bold] in a browser")


def _routes(options: AuditFlags) -> None:
    """Say what records come to by every route through a folder of shards."""
    from unlearn.apps.cli.screen import console, table
    from unlearn_eval.audit.routes import FILE, audit_routes

    found = audit_routes(options)
    rows = [found.before, *found.rows] if found.before else [*found.rows]
    heads = ["route", "word for word", "loss", "lowest, less the base's"]
    cells = [
        [row.route, f"{row.recalled} of {row.records}", f"{row.loss:.2f}", f"{row.lowest:.2f}"]
        for row in rows
    ]
    table("Records by every route", heads, cells)
    console.print(f"  {found.anywhere} record(s) come out of some shard, and not of the base")
    console.print(f"Saved to [bold]{escape(str(options.output / FILE))}[/bold]")


def _show(result: Audit) -> None:
    """Print the headline numbers, what is to know of them, and what they come to."""
    from unlearn.apps.cli.screen import STYLES, console, show_note, table
    from unlearn_eval.report.audit.summary import summary

    shown = summary(result)
    rows = [[escape(label), *cells] for label, *cells in shown.rows]
    table("What is left (95 % intervals)", shown.heads, rows)
    if shown.conditional:
        console.print(
            "  * too few subjects for an interval that holds for new ones: treats records as "
            "independent"
        )
    for note in shown.notes:
        show_note(note)
    style = STYLES[shown.headline.tone]
    console.print(f"[bold {style}]{escape(shown.headline.sentence)}[/bold {style}]")
