"""Do steps in several processes on one machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

from unlearn.apps.compare.execution.queue import Watcher, WorkQueue, advance, attempt
from unlearn.apps.compare.layout import Step
from unlearn.apps.compare.study import Study

__all__ = ["run_apart"]

_PATIENCE = 10.0
"""Seconds in which a process that is told to stop may clean up."""


class _Worker:
    """A process that does one step after the other.

    Args:
        study: the comparison.
        number: which of the workers it is, from 0.
        threads: that it may use.
    """

    def __init__(self, study: Study, number: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.step: Step | None = None
        self.process = context.Process(
            target=_serve, args=(theirs, study, number, threads), daemon=True
        )
        self.process.start()
        theirs.close()

    def takes(self, step: Step) -> bool:
        """Let it do a step; False if it is not there any more."""
        self.step = step
        try:
            self.pipe.send(step)
        except OSError:
            return False
        return self.process.is_alive()

    def answer(self) -> str | None:
        """Return why the step has failed, or None; a process that died is a failure."""
        assert self.step is not None
        try:
            failure: str | None = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(_PATIENCE)
            code = self.process.exitcode
            failure = f"{self.step.label}: its process ended unexpectedly (exit code {code})"
        self.step = None
        return failure

    def stop(self) -> None:
        """Let it clean up and end; end it if it does not."""
        self.process.terminate()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def run_apart(queue: WorkQueue, study: Study, watcher: Watcher, jobs: int, threads: int) -> None:
    """Do steps in several processes, until nothing is left that can be done.

    A process that dies takes only its step with it. However this ends, no process is left.

    Args:
        queue: what is to do; is brought up to date.
        study: the comparison.
        watcher: told what happens.
        jobs: how many processes.
        threads: that each of them may use.
    """
    with _team(study, jobs, threads) as team:
        while True:
            for place, worker in enumerate(team):
                if worker.step is None and (step := advance(queue, watcher)) is not None:
                    _give(step, team, place, study, threads)
            busy = [worker for worker in team if worker.step is not None]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy])
            for worker in [w for w in busy if w.pipe in ready]:
                step = worker.step
                assert step is not None
                failure = worker.answer()
                queue.end(step, failure)
                watcher.ended(step, failure)


def _give(step: Step, team: list[_Worker], place: int, study: Study, threads: int) -> None:
    """Let a worker do a step; another one in its place if it has died since its last."""
    if not team[place].takes(step):
        team[place].stop()
        team[place] = _Worker(study, place, threads)
        team[place].takes(step)  # if that one dies, too, its answer says so


@contextlib.contextmanager
def _team(study: Study, jobs: int, threads: int) -> Iterator[list[_Worker]]:
    team = []
    try:
        for number in range(jobs):
            team.append(_Worker(study, number, threads))  # noqa: PERF401  all must be stopped
        yield team
    finally:
        for worker in team:
            worker.process.terminate()  # all at once: each may take a moment to clean up
        for worker in team:
            worker.stop()


def _serve(pipe: Connection, study: Study, number: int, threads: int) -> None:
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
    _take_gpu(number, study.opening.get("device"))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(attempt(pipe.recv(), study))


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
