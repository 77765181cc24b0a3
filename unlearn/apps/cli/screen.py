"""What the command line shows: the plan, a progress bar, tables. Nothing else prints."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from unlearn.apps.cli.ending import hang_up
from unlearn.printable import printable
from unlearn.processes import is_main
from unlearn.runs.progress import PlainLines, bar
from unlearn_eval.report.formats import duration

if TYPE_CHECKING:
    from unlearn.methods.job import TrainingPlan
    from unlearn.runs.run_plan import RunPlan
    from unlearn.runs.saving import Result

__all__ = [
    "STYLES",
    "announce",
    "console",
    "overall",
    "progress_bar",
    "show_note",
    "show_plan",
    "show_result",
    "table",
]


STYLES = {"shown": "green", "open": "yellow", "not forgotten": "red", "plain": "default"}
"""Colours of the tones of a verdict; the words beside them say the same."""


class _Console(Console):
    """Goes on where nobody reads any more (`| head`); Rich would end the process.

    What it prints is `printable`: ids, labels and paths in it come from others, and Rich lets
    escape sequences through.
    """

    def render_str(self, text: str, **more: Any) -> Text:
        """Make text of a string: every one that is printed, and every cell of a table."""
        return super().render_str(printable(text), **more)

    def on_broken_pipe(self) -> None:
        """Say no more: the work is worth more than what is said of it."""
        hang_up(sys.stderr if self.stderr else sys.stdout)


# Where nobody watches (a file, a pipe, CI) lines may be long: tables stay readable.
# Of several processes started by a launcher only the first speaks.
_QUIET = not is_main()
console = _Console(highlight=False, width=None if sys.stdout.isatty() else 140, quiet=_QUIET)
_NAME = 24  # so much of the first column of a table stays on one line
_errors = _Console(stderr=True, highlight=False, quiet=_QUIET)


def announce(plan: TrainingPlan) -> None:
    """Show what is about to run, before it starts."""
    console.print(f"[bold]{plan.text}[/bold]")
    seconds = plan.seconds * plan.usual
    console.print(f"  at most {plan.steps:,} steps, about {duration(seconds)} on this machine")
    if plan.relative:
        console.print(f"  {plan.relative}")
    for note in plan.notes:
        show_note(note)


def show_plan(plan: RunPlan) -> None:
    """Show what a run would take, a line each, in two columns."""
    console.print(f"[bold]{escape(plan.text)}[/bold]")
    for what, how_much in plan.rows(duration):
        console.print(f"  {what:<14} {escape(how_much)}")
    for note in plan.notes:
        show_note(note)


def show_note(note: str) -> None:
    """Show what the user should know; names in it are not markup."""
    console.print(f"  [yellow]note:[/yellow] {escape(note)}")


@contextlib.contextmanager
def progress_bar(label: str, unit: str = "steps") -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (done, total) that moves a bar on a terminal, and writes lines elsewhere.

    Args:
        label: what is being done.
        unit: what is counted.

    Yields:
        The callback; `losses` of it takes the losses of a step.
    """
    if _QUIET:
        yield lambda done, total: None
    elif _errors.is_terminal:
        with bar(label, _errors) as progress:
            yield progress
    else:
        yield PlainLines(label, unit)


def overall(label: str) -> Callable[[int, int], None] | None:
    """Return what tells how much of several pieces of work is done, where no bar is shown."""
    return None if _errors.is_terminal or _QUIET else PlainLines(label)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are aligned right."""
    shown = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    # numbers may break over lines before names do
    longest = max((Text.from_markup(row[0]).cell_len for row in rows), default=0)
    for i, column in enumerate(columns):
        first = i == 0
        shown.add_column(
            column,
            justify="left" if first else "right",
            overflow="fold",
            min_width=min(longest, _NAME) if first else None,
        )
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def show_result(result: Result) -> None:
    """Print where an adapter was saved and the first look at it."""
    fit = result.fit
    why = f"stopped early: {fit.stopped}" if fit.stopped else "ran all its steps"
    console.print(
        f"  {fit.steps:,} of {fit.planned_steps:,} steps in {duration(fit.seconds)}; {why}"
    )
    rows = []
    for name, after in result.after.items():
        before = result.before.get(name)
        rows.append(
            [
                f"{name} ({after.n})",
                f"{before.loss:.2f}" if before else "",
                f"{after.loss:.2f}",
                f"{before.recall:.0%}" if before else "",
                f"{after.recall:.0%}",
            ]
        )
    table(
        "A first look (at most 64 records a split)",
        ["records", "loss before", "after", "word for word before", "after"],
        rows,
    )
    for note in result.notes:
        show_note(note)
    console.print(f"Saved to [bold]{escape(str(result.folder))}[/bold]")
