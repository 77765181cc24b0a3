"""`unlearn compare`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from unlearn.apps.cli import flags

if TYPE_CHECKING:
    from unlearn.apps.compare import Step
    from unlearn.apps.compare.comparing import Stage
    from unlearn.apps.compare.estimate import Costs

__all__ = ["compare"]


def compare(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, or a .yaml file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Change the recipe.")
    ] = None,
    output: flags.Output = Path("comparison"),
    plan: Annotated[
        bool, typer.Option("--plan", help="Show cells, tokens and estimated cost; run nothing.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Processes at once, on this machine.")
    ] = 1,
    engine: Annotated[
        str,
        typer.Option("--engine", help="What does the work: local, or ray."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Join this Ray cluster; by default one of --jobs workers is started here.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, whatever the folder holds.")
    ] = False,
    show_text: Annotated[
        bool,
        typer.Option(
            "--show-text",
            help="Put the text of records into report.html, which otherwise holds numbers and ids "
            "of records only. Nothing is run again for it.",
        ),
    ] = False,
    report_to: flags.ReportTo = None,
    dtype: flags.Dtype = "auto",
    device: flags.Device = None,
) -> None:
    """Run methods side by side on the same records, beside retrained references.

    The adapter under study and the references are trained once; every method starts from that
    adapter. Each cell has a folder of its own: the same command goes on where a killed one was, and
    a changed recipe does again only what it changed. A cell that fails is reported and does not
    stop the rest (exit code 1).

    Example: unlearn compare compare/tofu_small model=MODEL data=tofu/full.json --output tofu
    """
    from unlearn.apps.cli.screen import console, table
    from unlearn.apps.compare import comparing
    from unlearn.apps.compare.execution.runner import Workers
    from unlearn.apps.compare.recipe import CompareRecipe
    from unlearn.config import load_recipe
    from unlearn.training.trackers import check_trackers

    loaded = load_recipe(recipe, CompareRecipe, overrides or [])
    opening = {"dtype": dtype, "device": device}
    if plan:
        for stage in comparing.stages(loaded, output, **opening):
            _show(stage)
        return
    watcher = _Screen()
    done = comparing.compare(
        loaded,
        output,
        workers=Workers(engine, jobs, address),
        overwrite=overwrite,
        watcher=watcher,
        show_text=show_text,
        report_to=check_trackers(report_to),
        **opening,
    )
    if done.tuning:
        heads = ["tuned", "trials", "pruned", "options taken"]
        rows = [[t.method, str(t.trials), str(t.pruned), t.options] for t in done.tuning]
        table("", heads, [[escape(word) for word in row] for row in rows])
    table("", done.heads, done.rows)
    for sentence in done.advice:
        console.print(f"  {escape(sentence)}")
    where = escape(str(done.folder))
    if not done.steps:
        console.print("Everything was there already; nothing had to be run.")
    console.print(f"Saved to [bold]{where}[/bold] (comparison.json, comparison.csv)")
    console.print(f"Look at  [bold]{where}/report.html[/bold] in a browser")
    if done.failures:
        raise typer.Exit(1)


class _Screen:
    """Shows steps as they begin and end."""

    @contextlib.contextmanager
    def begun(self, step: Step) -> Iterator[Callable[[int, int], None] | None]:
        """Move a bar while a step is done in this process."""
        from unlearn.apps.cli.screen import progress_bar

        with progress_bar(step.label) as progress:
            yield progress

    def ended(self, step: Step, failure: str | None) -> None:
        """Say what came of a step, but of audits that went well."""
        from unlearn.apps.cli.screen import console, duration

        if failure is not None:
            console.print(f"  [red]failed: {escape(failure)}[/red]")
        elif step.kind in ("target", "reference", "unlearn"):
            facts = step.facts()
            why = f"; stopped early: {facts['stopped']}" if facts.get("stopped") else ""
            console.print(f"  {escape(step.label)}: {duration(facts['wall'])}{escape(why)}")


def _show(stage: Stage) -> None:
    """Show what there is to do in one stage, and what it will take."""
    from unlearn.apps.cli.screen import console, duration, table
    from unlearn.apps.compare.estimate import costs, counts

    study, layout = stage.study, stage.layout
    found = counts(study)
    expected = costs(study, layout, found)
    sets = " + ".join(f"{n:,}" for n in found.forget)
    console.print(
        f"[bold]{stage.title}{len(layout.cells)} cells[/bold]: "
        f"{_many(study.recipe.methods, 'method')} × {_many(study.recipe.seeds, 'seed')} × "
        f"{_many(found.forget, 'forget set')}; "
        f"references a set: {study.recipe.references}"
    )
    console.print(
        f"  {found.train:,} records to learn, {sets} to forget, {found.holdout:,} never seen; "
        f"about {found.tokens:.0f} tokens each ({found.how})"
    )
    rows = [
        _line("the adapter under study", [layout.target], expected),
        _line("references", [s for group in layout.references for s in group], expected),
    ]
    seen: set[Path] = set()
    for name in dict.fromkeys(cell.name for cell in layout.cells):
        mine = [cell.unlearn for cell in layout.cells if cell.name == name]
        # a row that is another under a second name takes nothing
        rows.append(_line(name, [step for step in mine if step.folder not in seen], expected))
        seen |= {step.folder for step in mine}
    table("", ["training", "runs", "done", "tokens to go, at most"], rows)
    total = expected.total
    console.print(
        f"  to do: {_count(total.trained)} tokens forward and backward at most, and "
        f"{_count(total.scored)} forward only, in audits"
    )
    if expected.parameters:
        console.print(
            f"  {_count(expected.parameters)} parameters: "
            f"{total.operations(expected.parameters):.2g} floating-point operations"
        )
    if expected.seconds is None:
        console.print(f"  time: unknown; {expected.how}")
    else:
        console.print(f"  about {duration(expected.seconds)} of one process, from {expected.how}")


def _line(label: str, steps: Sequence[Step], expected: Costs) -> list[str]:
    """Sum steps up in a row: how many there are, how many are done, what the others take."""
    left = [expected.work[s.folder].trained for s in steps if s.folder in expected.work]
    done = len(steps) - len(left)
    return [escape(label), str(len(steps)), str(done), _count(sum(left))]


def _many(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'s' * (len(things) != 1)}"


def _count(number: float) -> str:
    """Write a large number as people say it."""
    for size, word in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:.0f}"
