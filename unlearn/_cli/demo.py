"""`unlearn demo`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from unlearn._cli import flags

if TYPE_CHECKING:
    from unlearn.demo.story import Chapter
    from unlearn_eval.audit import Audit

__all__ = ["demo"]

_MEANING = """\
   The attacker sees how the model reacts to two records, one of those to forget and one that it
   never saw, and names the one that was forgotten: guessing wins 50 games of 100."""


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
    from unlearn._cli.screen import console, duration, progress_bar, table
    from unlearn._output import check_output
    from unlearn.demo.story import METHODS, REFERENCES, tell
    from unlearn_eval.report import in_a_sentence

    target = check_output(output, overwrite=overwrite)
    console.print("[bold]1. An adapter learns made-up personal records[/bold]")
    with progress_bar("working") as progress:
        story = tell(target, people=people, seed=seed, form=form.value, progress=progress)
        console.print(
            f"   {len(story.data)} records of {people} people; trained in {story.seconds:.0f} s; "
            f"{story.learned:.0%} of them recalled word for word."
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
        page = story.write_up(chapters)
    rows = [["before", *_cells(story.before, "after"), ""]]
    rows += [[c.name, *_cells(c.audit, "after"), duration(c.seconds)] for c in chapters]
    rows += [["never saw them", *_of_references(chapters[0].audit), duration(retraining)]]
    table(
        "4. What is left",
        ["", "forgotten records that come out", "other records known", "attacker wins", "training"],
        rows,
    )
    console.print(_MEANING)
    for chapter in chapters:
        console.print(f"   [bold]{chapter.name}[/bold]: {in_a_sentence(chapter.audit)}")
    console.print(f"\nNow look at [bold]{escape(str(page))}[/bold] in a browser.")
    console.print("Beside it are the adapters with their lineage, and one audit a method.")
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
    return escape(answer if len(answer) <= 60 else answer[:59] + "…") or "(nothing)"


def _cells(audit: Audit, state: str) -> list[str]:
    """Return the headline numbers of one state."""
    out = audit.get(state, "forget", "extraction.verbatim", "rate")
    kept = audit.get(state, "retain", "extraction.verbatim", "rate")
    auc = audit.get(state, "forget", "membership.loss", "auc")
    assert out.value is not None
    assert kept.value is not None
    assert auc.value is not None
    wins = max(auc.value, 1 - auc.value)
    return [
        f"{round(out.value * out.n)} of {out.n}",
        f"{kept.value:.0%}",
        f"{100 * wins:.0f} of 100",
    ]


def _of_references(audit: Audit) -> list[str]:
    """Return the same of the references: one number, or its range."""
    columns = zip(
        *(_cells(audit, s) for s in audit.states if s.startswith("reference:")), strict=True
    )
    found = []
    for column in columns:
        values = sorted(set(column), key=lambda text: float(text.split()[0].rstrip("%")))
        found.append(
            values[0] if len(values) == 1 else f"{values[0].split(' of ')[0]} to {values[-1]}"
        )
    return found
