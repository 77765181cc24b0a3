"""The steps of a comparison that are still to do, and doing one of them."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unlearn.apps.compare.layout import Step
from unlearn.apps.compare.study import Study
from unlearn.errors import UnlearnError

__all__ = ["Runner", "StepQueue", "Watcher", "WorkQueue", "advance", "attempt"]

Progress = Callable[[int, int], None]


class Watcher(Protocol):
    """Who is told what happens."""

    def begun(self, step: Step) -> contextlib.AbstractContextManager[Progress | None]:
        """A step begins; in another process, where nothing tells its progress."""

    def ended(self, step: Step, failure: str | None) -> None:
        """A step is done, or has failed."""


Runner = Callable[["WorkQueue", Study, Watcher], None]
"""Does the steps of a queue until nothing is left that can be done."""


@dataclass
class WorkQueue:
    """What is still to do, and what has failed.

    Attributes:
        waiting: steps to be started, in order.
        failures: by folder, why a step has failed.
        running: folders of steps that are being done.
        spared: asked when all is there for a step; whether it need not be done after all.
    """

    waiting: list[Step]
    failures: dict[Path, str]
    running: set[Path]
    spared: Callable[[Step], bool] = lambda _: False

    def sort_out(self) -> Iterator[tuple[Step, str]]:
        """Take out and yield the steps that cannot be done, as what they need has failed."""
        for step in list(self.waiting):
            missing = [need for need in step.needs if need in self.failures]
            if missing:
                self.waiting.remove(step)
                self.failures[step.folder] = self.failures[missing[0]]
                yield step, self.failures[step.folder]

    def next(self) -> Step | None:
        """Take out the first step for which all is there."""
        pending = {step.folder for step in self.waiting} | self.running
        for step in list(self.waiting):
            if not pending & set(step.needs):
                self.waiting.remove(step)
                if self.spared(step):
                    pending.discard(step.folder)
                    continue
                self.running.add(step.folder)
                return step
        return None

    def end(self, step: Step, failure: str | None) -> None:
        """Note how a step has ended."""
        self.running.discard(step.folder)
        if failure is not None:
            self.failures[step.folder] = failure


def advance(queue: WorkQueue, watcher: Watcher) -> Step | None:
    """Tell of the steps that cannot be done any more, and take out the next one.

    Args:
        queue: what is to do.
        watcher: told of the steps that cannot be done.

    Returns:
        The step; None if all that is left waits for steps that are running.
    """
    for step, failure in queue.sort_out():
        watcher.ended(step, failure)
    return queue.next()


@dataclass(frozen=True)
class StepQueue:
    """The steps of a comparison as workers take them.

    Attributes:
        queue: what is to do; is brought up to date.
        watcher: told what happens.
    """

    queue: WorkQueue
    watcher: Watcher

    def take(self) -> Step | None:
        """Take out the next step."""
        return advance(self.queue, self.watcher)

    def advanced(self, task: Step, done: int, planned: int) -> None:
        """Nobody is told the progress of a step that a worker does."""

    def ended(self, task: Step, result: str | None, error: Exception | None) -> None:
        """Note why a step has failed, or that it has not."""
        failure = result if error is None else f"{task.label}: {error}"
        self.queue.end(task, failure)
        self.watcher.ended(task, failure)


def attempt(step: Step, study: Study, progress: Progress | None = None) -> str | None:
    """Do a step; an error is noted in its folder and does not go further.

    Args:
        step: the step.
        study: the comparison.
        progress: called with (done, in all).

    Returns:
        Why it failed, in one line; None if it did not.
    """
    from unlearn.apps.compare.execution.work import do

    note = step.folder / "error.txt"
    try:
        do(step, study, progress)
    except UnlearnError as error:
        text, detail = str(error), str(error)
    except Exception as error:
        text, detail = f"{type(error).__name__}: {error}", traceback.format_exc()
    else:
        note.unlink(missing_ok=True)
        return None
    with contextlib.suppress(OSError):  # the disk may be what failed
        note.write_text(detail + "\n", encoding="utf-8")
    return " ".join(f"{step.label}: {text}".split())
