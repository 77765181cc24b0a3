"""`unlearn compare`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from unlearn.apps.compare.options import CompareOptions
from unlearn.processes import if_interrupted

if TYPE_CHECKING:
    from unlearn.apps.compare.comparing import Stage
    from unlearn.apps.compare.layout import Step
    from unlearn.apps.compare.results import ComparisonResult

__all__ = ["compare"]


def compare(options: CompareOptions) -> None:
    """Run methods side by side on the same records, beside retrained references.

    The adapter under study and the references are trained once; every method starts from that
    adapter. Each cell has a folder of its own: the same command goes on where a killed one was, and
    a changed recipe does again only what it changed. A cell that fails is reported and does not
    stop the rest (exit code 1).

    Example: unlearn compare compare/tofu_small model=MODEL data=tofu/full.json --output tofu
    """
    from unlearn.apps.compare import comparing
    from unlearn.apps.compare.execution.runner import Workers
    from unlearn.apps.compare.recipe import CompareRecipe
    from unlearn.apps.compare.results import Show
    from unlearn.recipe import load_recipe
    from unlearn.training.trackers import check_trackers

    recipe = load_recipe(options.recipe, CompareRecipe, options.overrides)
    opening = {"dtype": options.dtype, "device": options.device}
    if options.plan:
        for stage in comparing.stages(recipe, options.output, **opening):
            _show(stage)
        return
    with if_interrupted(lambda: "steps that are done stay, and the same command goes on"):
        result = comparing.compare(
            recipe,
            options.output,
            workers=Workers(options.engine, options.jobs, options.address),
            overwrite=options.overwrite,
            watcher=_Screen(),
            show=Show(options.show_text, options.show_ids),
            report_to=check_trackers(options.report_to),
            **opening,
        )
    _report(result)
    if result.failures:
        raise typer.Exit(1)


def _report(result: ComparisonResult) -> None:
    """Print what came out, and where it is."""
    from unlearn.apps.cli.screen import console, table

    if result.tuning:
        heads = ["tuned", "trials", "pruned", "options taken"]
        rows = [[t.method, str(t.trials), str(t.pruned), t.options] for t in result.tuning]
        table("", heads, [[escape(word) for word in row] for row in rows])
    table("", result.heads, result.rows)
    for sentence in result.advice:
        console.print(f"  {escape(sentence)}")
    where = escape(str(result.folder))
    if not result.steps:
        console.print("Everything was there already; nothing had to be run.")
    console.print(f"Saved to [bold]{where}[/bold] (comparison.json, comparison.csv)")
    console.print(f"Look at  [bold]{where}/report.html[/bold] in a browser")


class _Screen:
    """Shows steps as they begin and end, and how many of all are done."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._lines: Callable[[int, int], None] | None = None

    def expects(self, steps: int) -> None:
        """Take note of how many steps there are to do."""
        from unlearn.apps.cli.screen import overall

        self._done, self._total = 0, steps
        self._lines = overall("all")

    @contextlib.contextmanager
    def begun(self, step: Step) -> Iterator[Callable[[int, int], None] | None]:
        """Move a bar while a step is done in this process."""
        from unlearn.apps.cli.screen import progress_bar

        unit = "records" if step.kind in ("audit", "trial") else "steps"
        with progress_bar(f"{self._done + 1}/{self._total} {step.label}", unit) as progress:
            yield progress

    def ended(self, step: Step, failure: str | None) -> None:
        """Say what came of a step, but of audits that went well."""
        from unlearn.apps.cli.screen import console
        from unlearn_eval.report.formats import duration

        self._done += 1
        if self._lines:
            self._lines(self._done, self._total)
        if failure is not None:
            console.print(f"  [red]failed: {escape(failure)}[/red]")
        elif step.kind in ("target", "reference", "unlearn"):
            facts = step.facts()
            why = f"; stopped early: {facts['stopped']}" if facts.get("stopped") else ""
            console.print(f"  {escape(step.label)}: {duration(facts['wall'])}{escape(why)}")


def _show(stage: Stage) -> None:
    """Show what there is to do in one stage, and what it will take."""
    from unlearn.apps.cli.screen import console, table
    from unlearn.apps.compare.forecast import forecast

    text = forecast(stage)
    console.print(f"[bold]{escape(text.cells)}[/bold]: {escape(text.axes)}")
    console.print(f"  {escape(text.records)}")
    table("", text.heads, [[escape(word) for word in row] for row in text.rows])
    for line in text.costs:
        console.print(f"  {escape(line)}")
