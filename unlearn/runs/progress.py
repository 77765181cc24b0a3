"""How far a run is: a bar on a terminal, else plain lines at sensible intervals.

Whoever watches gives a function that is called with (done, in all). If it has an attribute `losses`
that can be called, that is told the losses of each training step by term, just before.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from unlearn.processes import is_main
from unlearn.training.telling import losses_told_to

__all__ = ["PlainLines", "bar", "in_words", "shown"]

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int], None]

_FIRST = 5.0
"""Seconds after which the first line comes: what is over before needs none."""
_EVERY = 30.0
"""Seconds between lines, but for the tenths of the way."""
_SHARE = 0.05
"""Later, this share of the time so far: a long run writes no more lines than people read."""
_CLOSE = 5.0
"""Seconds that lines are apart at least."""


class PlainLines:
    """Writes lines such as `training: 120 of 400 steps (30 %), loss 1.93, 2 min left`.

    A line comes after some seconds, then every half minute and at each tenth of the way; after ten
    minutes they grow rarer. Losses are means since the line before.

    Args:
        label: what is being done.
        unit: what is counted.
        stream: where to; by default stderr.
        clock: seconds.
    """

    def __init__(
        self,
        label: str,
        unit: str = "steps",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._unit, self._stream, self._clock = label, unit, stream, clock
        self._sums: dict[str, tuple[float, int]] = {}
        self._restart()

    def _restart(self) -> None:
        """Begin to count anew."""
        self._start = self._last = self._clock()
        self._lines = self._tenth = 0
        self._first: tuple[int, float] | None = None
        self._before = (0, 0)

    def losses(self, losses: Mapping[str, float]) -> None:
        """Take note of the losses of a step, by term."""
        for name, loss in losses.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + loss, count + 1)

    def __call__(self, done: int, total: int) -> None:
        """Take note of how far it is, and write a line if it is time; `total` 0 is unknown."""
        if done < self._before[0]:  # another stage begins
            self._restart()
        now, self._before = self._clock(), (done, total)
        if self._first is None:
            self._first = (done, now)
        tenth = 10 * done // total if total else 0
        since = now - self._last
        interval = max(_EVERY, _SHARE * (now - self._start)) if self._lines else _FIRST
        if since >= interval or (self._lines and tenth > self._tenth and since >= _CLOSE):
            self._write(self._text(done, total, now))
            self._last, self._tenth = now, tenth
            self._lines += 1

    def _text(self, done: int, total: int, now: float) -> str:
        """Say how far it is, with the losses and the time left."""
        words = [f"{self._label}: {done:,} {self._unit}"]
        if total:
            words = [f"{self._label}: {done:,} of {total:,} {self._unit} ({done / total:.0%})"]
        words += [_losses_in_words({name: sum_ / n for name, (sum_, n) in self._sums.items()})]
        self._sums = {}
        assert self._first is not None
        ahead, seconds = done - self._first[0], now - self._first[1]
        if total > done and ahead > 0:
            words.append(f"about {in_words(seconds / ahead * (total - done))} left")
        elif total == done:
            words.append(f"{in_words(now - self._start)} in all")
        return ", ".join(filter(None, words))

    def _write(self, line: str) -> None:
        stream = self._stream or sys.stderr
        if stream is not None:  # a program without a console has none
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.write(line + "\n")
                stream.flush()


class _Bar:
    """A row of a bar, with the losses of the last step beside it."""

    def __init__(self, bar: Any, label: str) -> None:
        self._bar = bar
        self._task = bar.add_task(label, total=None, losses="")

    def losses(self, losses: Mapping[str, float]) -> None:
        """Show the losses of a step, by term."""
        self._bar.update(self._task, losses=_losses_in_words(losses))

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        self._bar.update(self._task, completed=done, total=total or None)


@contextlib.contextmanager
def bar(label: str, console: Console | None = None) -> Iterator[Progress]:
    """Yield what is called with (done, in all) and moves a bar, which goes when all is done.

    Args:
        label: what is being done.
        console: where to; by default stderr.

    Yields:
        The function, whose `losses` takes the losses of a step.
    """
    from rich import progress as parts
    from rich.console import Console

    shown_bar = parts.Progress(
        parts.TextColumn("  {task.description}"),
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        parts.TimeElapsedColumn(),
        parts.TimeRemainingColumn(),
        parts.TextColumn("{task.fields[losses]}"),
        console=console or Console(stderr=True),
        transient=True,
    )
    with shown_bar:
        yield _Bar(shown_bar, label)


@contextlib.contextmanager
def shown(
    progress: Progress | bool | None, label: str, unit: str = "steps"
) -> Iterator[Progress | None]:
    """Yield what is called with (done, in all), and let it be told the losses of steps, too.

    Args:
        progress: the user's own function; False for nothing; else a bar on a terminal or in a
            notebook, and plain lines elsewhere.
        label: what is being done.
        unit: what is counted.

    Yields:
        The function to call; None for nothing.
    """
    with contextlib.ExitStack() as stack:
        if callable(progress):
            watcher: Progress | None = progress
        elif progress is False or not is_main():
            watcher = None
        elif _watched():
            watcher = stack.enter_context(bar(label))
        else:
            watcher = PlainLines(label, unit)
        stack.enter_context(losses_told_to(getattr(watcher, "losses", None)))
        yield watcher


def _watched() -> bool:
    """Say whether somebody looks at a terminal or a notebook."""
    return "ipykernel" in sys.modules or bool(sys.stderr and sys.stderr.isatty())


def _losses_in_words(losses: Mapping[str, float]) -> str:
    """Write losses by term: `loss 1.93`, or `loss: forget 4.10, retain 0.35`."""
    if [*losses] == ["loss"]:
        return f"loss {losses['loss']:.2f}"
    terms = ", ".join(f"{name} {loss:.2f}" for name, loss in losses.items())
    return f"loss: {terms}" if terms else ""


def in_words(seconds: float) -> str:
    """Write a duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 2 else f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
