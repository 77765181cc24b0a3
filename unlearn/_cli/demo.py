"""`unlearn demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from unlearn._cli import flags

if TYPE_CHECKING:
    from unlearn.demo.story import Chapter

__all__ = ["demo"]

_MEANING = """\
   An AUC of 1.00 means that an attacker can tell the forgotten people from people whom the
   model never saw; near .50 they cannot. Far below .50 the forgotten stand out again, as people
   whom the model avoids. [bold]retrain[/bold] never saw them: success looks like that.
   [bold]npo[/bold] keeps the others but pushes the forgotten too far. [bold]grad_ascent[/bold]
   destroys everything, which the AUC alone would hide."""


def demo(
    output: flags.Output = Path("unlearn-demo"),
    people: Annotated[
        int, typer.Option("--people", min=10, help="How many people the records are about.")
    ] = 40,
    seed: flags.Seed = 0,
    overwrite: flags.Overwrite = False,
) -> None:
    """Watch personal data being learned, extracted, and taken out again: offline, on a CPU.

    A small language model that comes with this package is fine-tuned on made-up personal records,
    some people ask to be forgotten, and three methods are tried and measured. Everything is kept
    in the output folder.
    """
    from unlearn._cli.screen import console, progress_bar, table
    from unlearn._output import check_output
    from unlearn.demo.story import METHODS, tell

    target = check_output(output, overwrite=overwrite)
    console.print("[bold]1. An adapter learns made-up personal records[/bold]")
    with progress_bar("working") as progress:
        story = tell(target, people=people, seed=seed, progress=progress)
        console.print(
            f"   {story.records} records of {people} people; trained in {story.seconds:.0f} s; "
            f"{story.learned:.0%} of them recalled word for word."
        )
        console.print("[bold]2. Anybody who can ask it gets the data out[/bold]")
        for question, answer in story.said:
            console.print(f"   {question}  →  [red]{_short(answer)}[/red]")
        console.print(
            f"[bold]3. {story.forgotten} people ask to be forgotten "
            f"({story.forget_records} records)[/bold]"
        )
        chapters: list[Chapter] = []
        for name in METHODS:
            chapters.append(story.forget(name, progress))
            answer = chapters[-1].said[0][1]
            console.print(f"   after {name}: {story.said[0][0]}  →  {_short(answer)}")
    rows = [["before", *_cells(story.before, None)]]
    rows += [[c.name, *_cells(c.numbers, c.seconds)] for c in chapters]
    table(
        "4. What is left",
        ["", "forgotten records recalled", "other records recalled", "attacker's AUC", "time"],
        rows,
    )
    console.print(_MEANING)
    where = f"[bold]{escape(str(target))}[/bold]"
    console.print(f"\nEverything is in {where}: adapters, lineage, one audit a method.")
    console.print("Next, on an adapter of your own:")
    console.print(
        "   unlearn forget --model BASE --adapter ADAPTER --data records.jsonl "
        "--forget id1,id2 --output cleaned"
    )


def _short(answer: str) -> str:
    """Cut what a broken model may say without end, and keep it from being read as markup."""
    return escape(answer if len(answer) <= 60 else answer[:59] + "…") or "(nothing)"


def _cells(numbers: dict[str, str], seconds: float | None) -> list[str]:
    time = f"{seconds:.0f} s" if seconds is not None else ""
    return [numbers["forget"], numbers["retain"], numbers["auc"], time]
