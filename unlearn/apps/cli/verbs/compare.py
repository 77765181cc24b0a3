"""`unlearn compare`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from unlearn.apps.compare.options import CompareOptions

if TYPE_CHECKING:
    from unlearn.apps.compare import Step
    from unlearn.apps.compare.comparing import Compared, Stage
    from unlearn.apps.compare.estimate import Costs

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
    from unlearn.apps.compare.recipe import CompareRecipe
    from unlearn.recipe import load_recipe
    from unlearn.training.trackers import check_trackers

    recipe = load_recipe(options.recipe, CompareRecipe, options.overrides)
    opening = {"dtype": options.dtype, "device": options.device}
    if options.plan:
        for stage in comparing.stages(recipe, options.output, **opening):
            _show(stage)
        return
    result = comparing.compare(
        recipe,
        options.output,
        jobs=options.jobs,
        engine=options.engine,
        address=options.address,
        overwrite=options.overwrite,
        watcher=_Screen(),
        show_text=options.show_text,
        report_to=check_trackers(options.report_to),
        **opening,
    )
    _report(result)
    if result.failures:
        raise typer.Exit(1)


def _report(result: Compared) -> None:
    """Print what came out, and where it is."""
    from unlearn.apps.cli.screen import console, table

    if result.tuning:
        heads = ["tuned", "trials", "pruned", "options taken"]
        rows = [[t.method, str(t.trials), str(t.pruned), t.options] for t in result.tuning]
        table("", heads, [[escape(word) for word in row] for row in rows])
    table("", result.heads, result.rows)
    for sentence in result.said:
        console.print(f"  {escape(sentence)}")
    where = escape(str(result.folder))
    if not result.steps:
        console.print("Everything was there already; nothing had to be run.")
    console.print(f"Saved to [bold]{where}[/bold] (comparison.json, comparison.csv)")
    console.print(f"Look at  [bold]{where}/report.html[/bold] in a browser")


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
