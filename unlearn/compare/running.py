"""Run the steps that are not done: one after the other, or in several processes."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unlearn.compare.layout import Step
from unlearn.compare.study import Study
from unlearn.errors import OptionError, OutputError, UnlearnError, did_you_mean

__all__ = [
    "ENGINES",
    "Ledger",
    "Runner",
    "Watcher",
    "advance",
    "attempt",
    "check_engine",
    "held",
    "run_steps",
    "runner",
    "threads_for",
]

ENGINES = ("local", "ray")
"""What does the steps: this machine, or a cluster of Ray's."""

Progress = Callable[[int, int], None]


class Watcher(Protocol):
    """Who is told what happens."""

    def begun(self, step: Step) -> contextlib.AbstractContextManager[Progress | None]:
        """A step begins; in another process, where nothing tells its progress."""

    def ended(self, step: Step, failure: str | None) -> None:
        """A step is done, or has failed."""


Runner = Callable[["Ledger", Study, Watcher], None]
"""Does the steps of a ledger until nothing is left that can be done."""


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


def check_engine(engine: str, address: str | None) -> None:
    """Refuse an engine that is not there.

    Args:
        engine: its name.
        address: of a cluster that is to be joined.

    Raises:
        OptionError: saying what to do.
    """
    if engine not in ENGINES:
        hint = did_you_mean(engine, ENGINES)
        raise OptionError(f"unknown engine {engine!r}{hint}; choose {', '.join(ENGINES)}")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise OptionError("--engine ray: Ray is not installed: pip install 'unlearn[ray]'")
    if address and engine != "ray":
        raise OptionError("--address is that of a Ray cluster: give --engine ray")


@contextlib.contextmanager
def runner(engine: str = "local", jobs: int = 1, address: str | None = None) -> Iterator[Runner]:
    """Yield what does steps; nothing is started before there is one to do.

    Args:
        engine: one of `ENGINES`.
        jobs: processes at once; with 1 the local engine works in this one.
        address: of a Ray cluster to join.

    Yields:
        The runner.
    """
    if engine == "ray":
        from unlearn.compare._ray import on_ray

        with on_ray(jobs, address) as run:
            yield run
    else:
        yield functools.partial(_locally, jobs=jobs)


def run_steps(
    steps: Sequence[Step],
    study: Study,
    watcher: Watcher,
    run: Runner | None = None,
    spared: Callable[[Step], bool] = lambda _: False,
) -> dict[Path, str]:
    """Do every step that is not done, as far as what it needs is there.

    Args:
        steps: what is needed first.
        study: the comparison.
        watcher: told what happens.
        run: does them; by default one after the other in this process.
        spared: asked when all is there for a step; whether it need not be done after all.

    Returns:
        By folder, why a step has failed; a step whose needs have failed has their reason.
    """
    ledger = Ledger([step for step in steps if not step.done], {}, set(), spared)
    (run or _locally)(ledger, study, watcher)
    return ledger.failures


def _locally(ledger: Ledger, study: Study, watcher: Watcher, jobs: int = 1) -> None:
    """Do steps in this process, or in several of this machine's."""
    if jobs > 1 and len(ledger.left) > 1:
        from unlearn.compare._processes import run_apart

        run_apart(ledger, study, watcher, min(jobs, len(ledger.left)), threads_for(jobs))
        return
    with _as_one_of(jobs):
        while (step := advance(ledger, watcher)) is not None:
            with watcher.begun(step) as progress:
                failure = attempt(step, study, progress)
            ledger.end(step, failure)
            watcher.ended(step, failure)


def threads_for(jobs: int) -> int:
    """Return how many threads each of several processes has.

    It follows from the number that is asked for and not from how many there are to do, so that what
    is added to a comparison later takes as many, and its time can be compared.

    Args:
        jobs: processes that share the processors which this one may use.

    Returns:
        One thread or more.
    """
    known = hasattr(os, "sched_getaffinity")
    mine = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, mine // jobs)


@contextlib.contextmanager
def _as_one_of(jobs: int) -> Iterator[None]:
    """Let this process use no more threads than each of several would."""
    if jobs == 1:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads_for(jobs))
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
