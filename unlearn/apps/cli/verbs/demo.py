"""`unlearn demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from unlearn.apps.demo.options import DemoOptions
from unlearn.processes import if_interrupted

if TYPE_CHECKING:
    from unlearn.apps.demo.story import Chapter, Story

__all__ = ["demo"]

_MEANING = """\
The attacker sees how the model reacts to two records, one of those to forget and one that it \
never saw, and has to say which one was in its training: guessing wins 50 games of 100. The best \
of several attackers counts, which brings luck: the figure to aim at is that of the models \
retrained without the records, not 50."""


_WIDTH = 100


def demo(options: DemoOptions) -> None:
    """Watch personal data being learned, extracted, and taken out again: offline, on a CPU.

    A small language model that comes with this package is fine-tuned on made-up personal records,
    some people ask to be forgotten, three methods are tried, and each result is compared with
    adapters that never saw these people. Everything is kept in the output folder; report.html
    shows it.
    """
    from unlearn.apps.cli.screen import console, progress_bar
    from unlearn.apps.demo.story import tell
    from unlearn.apps.demo.telling import forgetting
    from unlearn.files import check_output

    target = check_output(options.output, overwrite=options.overwrite)
    console.print("[bold]1. An adapter learns made-up personal records[/bold]")
    begin_anew = "the demo begins anew with the same command and --overwrite"
    with progress_bar("working") as progress, if_interrupted(lambda: begin_anew):
        story = tell(
            target,
            people=options.people,
            seed=options.seed,
            form=options.form.value,
            progress=progress,
        )
        console.print(
            f"   {len(story.data)} records of {options.people} people; trained in "
            f"{story.seconds:.0f} s; {story.learned} of them recalled word for word."
        )
        chapters = forgetting(story, progress, console.print)
        page = story.write_up(chapters)
    _what_is_left(story, chapters)
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


def _what_is_left(story: Story, chapters: list[Chapter]) -> None:
    """Print the outcome of each method beside the references."""
    from rich.padding import Padding

    from unlearn.apps.cli.screen import STYLES, console, table
    from unlearn_eval.report import COLUMNS, outcome, uncertain
    from unlearn_eval.verdict.tone import sign

    attempts = story.attempts(chapters)
    lines = outcome(attempts)
    rows = [[line.name, line.out, line.wins, line.kept, line.time] for line in lines]
    table("4. What is left", ["", *COLUMNS], rows)
    for paragraph in filter(None, (_MEANING, uncertain(attempts))):
        console.print(Padding(escape(paragraph), (0, 0, 0, 3)), width=_WIDTH)
    for line in lines:
        if line.verdict:
            style = STYLES[line.tone]
            said = escape(f"{sign(line.tone)} {line.verdict}")
            text = f"[bold]{line.name}[/bold]: [{style}]{said}[/{style}]"
            console.print(Padding(text, (0, 0, 0, 3)), width=_WIDTH)
