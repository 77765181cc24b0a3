"""The middle of the demo's story, told line by line while it happens."""

from __future__ import annotations

from collections.abc import Callable

from rich.markup import escape

from unlearn.apps.demo.story import METHODS, REFERENCES, Chapter, Story
from unlearn.runs.fields import Progress
from unlearn_eval.report.formats import duration

__all__ = ["forgetting"]


def forgetting(story: Story, progress: Progress, show: Callable[[str], None]) -> list[Chapter]:
    """Show what can be extracted, forget by each method, and show what is said then.

    The lines are in Rich's markup; whatever a model or a record says in them is escaped.
    """
    show("[bold]2. Anybody who can ask it gets the data out[/bold]")
    questions = [_question(story.gone[i]) for i in story.shown]
    for question, i in zip(questions, story.shown, strict=True):
        answer = _short(story.before.said["after"][i])
        show(f"   {question}  →  [red]{answer}[/red]")
    show(
        f"[bold]3. {len(set(story.gone.subjects))} people ask to be forgotten "
        f"({len(story.gone)} records)[/bold]"
    )
    times = {name: story.forget(name, progress) for name in METHODS}
    seconds = story.train_references(progress)
    show(
        f"   to compare with: {REFERENCES} more adapters trained without them, "
        f"{duration(seconds)} each"
    )
    chapters: list[Chapter] = []
    for name, seconds in times.items():
        chapters.append(story.measure(name, seconds, progress))
        answer = _short(chapters[-1].audit.said["after"][story.shown[0]])
        show(f"   after {name}: {questions[0]}  →  {answer}")
    answer = _short(chapters[0].audit.said["reference:0"][story.shown[0]])
    show(f"   never saw them: {questions[0]}  →  {answer}")
    return chapters


def _question(record: object) -> str:
    """Return what is asked, whichever form the record has."""
    messages = getattr(record, "messages", None)
    return escape(messages[0]["content"] if messages else str(getattr(record, "prompt", "")))


def _short(answer: str) -> str:
    """Cut what a broken model may say without end, and keep it from being read as markup."""
    answer = " ".join(answer.split())
    return escape(answer if len(answer) <= 48 else answer[:47] + "…") or "(nothing)"
