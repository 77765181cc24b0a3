"""Run the steps that are not done: one after the other, or in several processes."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unlearn.compare.layout import Step
from unlearn.compare.study import Study
from unlearn.errors import OutputError, UnlearnError

__all__ = ["Ledger", "Watcher", "advance", "attempt", "held", "run_steps"]

Progress = Callable[[int, int], None]


class Watcher(Protocol):
    """Who is told what happens."""

    def begun(self, step: Step) -> contextlib.AbstractContextManager[Progress | None]:
        """A step begins; in another process, where nothing tells its progress."""

    def ended(self, step: Step, failure: str | None) -> None:
        """A step is done, or has failed."""


@dataclass
class Ledger:
    """What is still to do, and what has failed.

    Attributes:
        left: steps to be started, in order.
        failures: by folder, why a step has failed.
        running: folders of steps that are being done.
        spared: asked when all is there for a step; whether it need not be done after all.
    """

    left: list[Step]
    failures: dict[Path, str]
    running: set[Path]
    spared: Callable[[Step], bool] = lambda _: False

    def sort_out(self) -> Iterator[tuple[Step, str]]:
        """Take out and yield the steps that cannot be done, as what they need has failed."""
        for step in list(self.left):
            broken = [need for need in step.needs if need in self.failures]
            if broken:
                self.left.remove(step)
                self.failures[step.folder] = self.failures[broken[0]]
                yield step, self.failures[step.folder]

    def next(self) -> Step | None:
        """Take out the first step for which all is there."""
        pending = {step.folder for step in self.left} | self.running
        for step in list(self.left):
            if not pending & set(step.needs):
                self.left.remove(step)
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


def run_steps(
    steps: Sequence[Step],
    study: Study,
    watcher: Watcher,
    jobs: int = 1,
    spared: Callable[[Step], bool] = lambda _: False,
) -> dict[Path, str]:
    """Do every step that is not done, as far as what it needs is there.

    Args:
        steps: what is needed first.
        study: the comparison.
        watcher: told what happens.
        jobs: processes at once; with 1 the work is done in this one.
        spared: asked when all is there for a step; whether it need not be done after all.

    Returns:
        By folder, why a step has failed; a step whose needs have failed has their reason.
    """
    ledger = Ledger([step for step in steps if not step.done], {}, set(), spared)
    if jobs > 1 and len(ledger.left) > 1:
        from unlearn.compare._processes import run_apart

        run_apart(ledger, study, watcher, min(jobs, len(ledger.left)))
        return ledger.failures
    while (step := advance(ledger, watcher)) is not None:
        with watcher.begun(step) as progress:
            failure = attempt(step, study, progress)
        ledger.end(step, failure)
        watcher.ended(step, failure)
    return ledger.failures


def advance(ledger: Ledger, watcher: Watcher) -> Step | None:
    """Tell of the steps that cannot be done any more, and take out the next one.

    Args:
        ledger: what is to do.
        watcher: told of the steps that cannot be done.

    Returns:
        The step; None if all that is left waits for steps that are running.
    """
    for step, failure in ledger.sort_out():
        watcher.ended(step, failure)
    return ledger.next()


def attempt(step: Step, study: Study, progress: Progress | None = None) -> str | None:
    """Do a step; an error is noted in its folder and does not go further.

    Args:
        step: the step.
        study: the comparison.
        progress: called with (done, in all).

    Returns:
        Why it failed, in one line; None if it did not.
    """
    from unlearn.compare.work import do

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


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Hold an output folder, so that no two comparisons write into it at once.

    Args:
        root: the folder.

    Yields:
        Nothing.

    Raises:
        OutputError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system: nothing to hold it with
        yield
        return
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"another comparison is running in {root}") from None
        yield
