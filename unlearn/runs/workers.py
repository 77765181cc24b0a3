"""Processes on this machine that do one task after the other, and all end when this one does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from unlearn.errors import UnlearnError
from unlearn.processes import portable

__all__ = [
    "Tell",
    "Work",
    "WorkList",
    "Worker",
    "WorkerLostError",
    "as_one_of",
    "run_in_processes",
    "threads_for",
    "with_threads",
]

T = TypeVar("T")
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)

Tell = Callable[[int, int], None]
"""Told (steps done, steps planned) of the task under way."""

Work = Callable[[T, Tell], R]
"""Does a task. It is sent to each process once, so that what it keeps serves all its tasks."""

_PATIENCE = 10.0
"""Seconds in which a process that is told to stop may clean up."""


class WorkerLostError(UnlearnError):
    """A process ended before its task was done."""


class WorkList(Protocol[T, R_contra]):
    """What processes are to do, and who hears of it."""

    def take(self) -> T | None:
        """Take out the next task; None if all that is left waits for tasks that are running."""

    def advanced(self, task: T, done: int, planned: int) -> None:
        """A task has come this far."""

    def ended(self, task: T, result: R_contra | None, error: Exception | None) -> None:
        """A task is done, or has failed; what this raises ends all processes."""


class _Progress(NamedTuple):
    """How far a process has come in its task."""

    done: int
    planned: int


class _End(NamedTuple):
    """What became of a task."""

    result: Any
    error: Exception | None


class Worker(Generic[T, R]):
    """A process that does one task after the other.

    Args:
        work: does a task; can be pickled.
        number: which of the workers it is, from 0.
        threads: that it may use.
        device: that the user chose; without a number the processes share the GPUs out.
    """

    def __init__(self, work: Work[T, R], number: int, threads: int, device: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.task: T | None = None
        self.process = context.Process(
            target=_serve, args=(theirs, work, number, threads, device), daemon=True
        )
        with _deaf_to_interrupts():
            self.process.start()
        theirs.close()

    def takes(self, task: T) -> bool:
        """Let it do a task; False if it is not there any more."""
        self.task = task
        try:
            self.pipe.send(task)
        except OSError:
            return False
        return self.process.is_alive()

    def hear(self) -> _Progress | _End:
        """Return what it says next; a process that died has failed its task."""
        try:
            message: _Progress | _End = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(_PATIENCE)
            code = self.process.exitcode
            lost = WorkerLostError(f"its process ended unexpectedly (exit code {code})")
            message = _End(None, lost)
        return message

    def stop(self) -> None:
        """Let it clean up and end; end it if it does not."""
        self.process.terminate()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def run_in_processes(
    work: Work[T, R], tasks: WorkList[T, R], jobs: int, threads: int, device: str | None = None
) -> None:
    """Do tasks in several processes, until none is left that can be done.

    A process that dies takes only its task with it. However this ends, no process is left.

    Args:
        work: does a task; can be pickled.
        tasks: what is to do, and who hears of it.
        jobs: how many processes.
        threads: that each of them may use.
        device: that the user chose; without a number the processes share the GPUs out.
    """

    def start(number: int) -> Worker[T, R]:
        return Worker(work, number, threads, device)

    with _team(start, jobs) as team:
        while True:
            for number, worker in enumerate(team):
                if worker.task is not None or (task := tasks.take()) is None:
                    continue
                if not worker.takes(task):  # it has died since its last task
                    worker.stop()
                    team[number] = start(number)
                    team[number].takes(task)  # if that one dies, too, it is heard
            busy = [worker for worker in team if worker.task is not None]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy])
            for worker in [w for w in busy if w.pipe in ready]:
                assert worker.task is not None
                message = worker.hear()
                if isinstance(message, _Progress):
                    tasks.advanced(worker.task, *message)
                else:
                    task, worker.task = worker.task, None
                    tasks.ended(task, *message)


def threads_for(jobs: int) -> int:
    """Return how many threads each of several processes has.

    It follows from the number that is asked for and not from how many tasks there are, so that what
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
def as_one_of(jobs: int) -> Iterator[None]:
    """Let this process use no more threads than each of several would."""
    with with_threads(threads_for(jobs) if jobs > 1 else None):
        yield


@contextlib.contextmanager
def with_threads(threads: int | None) -> Iterator[None]:
    """Let this process use so many threads; None for as many as it does."""
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes that never hear Ctrl-C: the first process does, and stops them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # started inside, Python's own helper would let the signal through again
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _team(start: Callable[[int], Worker[T, R]], jobs: int) -> Iterator[list[Worker[T, R]]]:
    team: list[Worker[T, R]] = []
    try:
        for number in range(jobs):
            team.append(start(number))  # noqa: PERF401  all must be stopped
        yield team
    finally:
        for worker in team:
            worker.process.terminate()  # all at once: each may take a moment to clean up
        for worker in team:
            worker.stop()


def _serve(
    pipe: Connection, work: Work[Any, Any], number: int, threads: int, device: str | None
) -> None:
    """Do what comes through the pipe, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it and stops this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries would talk over the first process's output
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is imported
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)
    _take_gpu(number, device)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(_attempt(work, pipe.recv(), lambda *steps: pipe.send(_Progress(*steps))))


def _attempt(work: Work[Any, Any], task: Any, tell: Tell) -> _End:
    """Do a task, and say what became of it."""
    try:
        return _End(work(task, tell), None)
    except BrokenPipeError:  # nobody listens any more
        raise
    except Exception as error:
        if not isinstance(error, UnlearnError):
            error.add_note(traceback.format_exc())  # the pipe takes no traceback
        return _End(None, portable(error))


def _take_gpu(number: int, device: str | None) -> None:
    """Give each process a GPU in turn, but where the user chose one by its number."""
    import torch

    if torch.cuda.is_available() and device in (None, "cuda"):
        torch.cuda.set_device(number % torch.cuda.device_count())


def _end_with_parent() -> None:
    """End at once when the first process was killed: nobody waits for the result any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
