"""`unlearn demo`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from unlearn.apps.cli import flags

if TYPE_CHECKING:
    from unlearn.apps.demo.story import Chapter

__all__ = ["demo"]

_MEANING = """\
The attacker sees how the model reacts to two records, one of those to forget and one that it \
never saw, and has to say which one was in its training: guessing wins 50 games of 100. The best \
of several attackers counts, which brings luck: the figure to aim at is that of the models \
retrained without the records, not 50."""


_WIDTH = 100


class Form(StrEnum):
    """How the made-up records are written."""

    PROMPT = "prompt"
    MESSAGES = "messages"


def demo(
    output: flags.Output = Path("unlearn-demo"),
    people: Annotated[
        int, typer.Option("--people", min=10, help="How many people the records are about.")
    ] = 40,
    form: Annotated[
        Form,
        typer.Option(
            "--form", help="Questions with answers, or conversations for a chat template."
        ),
    ] = Form.PROMPT,
    seed: flags.Seed = 0,
    overwrite: flags.Overwrite = False,
) -> None:
    """Watch personal data being learned, extracted, and taken out again: offline, on a CPU.

    A small language model that comes with this package is fine-tuned on made-up personal records,
    some people ask to be forgotten, three methods are tried, and each result is compared with
    adapters that never saw these people. Everything is kept in the output folder; report.html
    shows it.
    """
    from rich.padding import Padding

    from unlearn.apps.cli.screen import console, duration, progress_bar, table
    from unlearn.apps.demo.story import METHODS, REFERENCES, tell
    from unlearn.files import check_output
    from unlearn_eval.report import COLUMNS, outcome, uncertain

    target = check_output(output, overwrite=overwrite)
    console.print("[bold]1. An adapter learns made-up personal records[/bold]")
    with progress_bar("working") as progress:
        story = tell(target, people=people, seed=seed, form=form.value, progress=progress)
        console.print(
            f"   {len(story.data)} records of {people} people; trained in {story.seconds:.0f} s; "
            f"{story.learned} of them recalled word for word."
        )
        console.print("[bold]2. Anybody who can ask it gets the data out[/bold]")
        questions = [_question(story.gone[i]) for i in story.shown]
        for question, i in zip(questions, story.shown, strict=True):
            answer = _short(story.before.said["after"][i])
            console.print(f"   {question}  →  [red]{answer}[/red]")
        console.print(
            f"[bold]3. {len(set(story.gone.subjects))} people ask to be forgotten "
            f"({len(story.gone)} records)[/bold]"
        )
        chapters: list[Chapter] = []
        retraining = story.retrain_references(progress)
        console.print(
            f"   to compare with: {REFERENCES} adapters trained without them, "
            f"{duration(retraining)} each"
        )
        for name in METHODS:
            chapters.append(story.forget(name, progress))
            answer = _short(chapters[-1].audit.said["after"][story.shown[0]])
            console.print(f"   after {name}: {questions[0]}  →  {answer}")
        answer = _short(chapters[0].audit.said["reference:0"][story.shown[0]])
        console.print(f"   retrained without: {questions[0]}  →  {answer}")
        page = story.write_up(chapters)
    attempts = story.attempts(chapters)
    lines = outcome(attempts)
    table(
        "4. What is left",
        ["", *COLUMNS],
        [[line.name, line.out, line.wins, line.kept, line.time] for line in lines],
    )
    for paragraph in filter(None, (_MEANING, uncertain(attempts))):
        console.print(Padding(escape(paragraph), (0, 0, 0, 3)), width=_WIDTH)
    for line in lines:
        if line.verdict:
            said = f"[bold]{line.name}[/bold]: {escape(line.verdict)}"
            console.print(Padding(said, (0, 0, 0, 3)), width=_WIDTH)
    console.print(f"\nNow look at [bold]{escape(str(page))}[/bold] in a browser.")
    console.print(
        "Beside it are the adapters with their lineage, and a detailed report for each method."
    )
    console.print("Next, on an adapter of your own:")
    console.print(
        "   unlearn forget --model BASE --adapter ADAPTER --data records.jsonl "
        "--forget id1,id2 --output cleaned",
        soft_wrap=True,
    )


def _question(record: object) -> str:
    """Return what is asked, whichever form the record has."""
    messages = getattr(record, "messages", None)
    return escape(messages[0]["content"] if messages else str(getattr(record, "prompt", "")))


def _short(answer: str) -> str:
    """Cut what a broken model may say without end, and keep it from being read as markup."""
    answer = " ".join(answer.split())
    return escape(answer if len(answer) <= 48 else answer[:47] + "…") or "(nothing)"
