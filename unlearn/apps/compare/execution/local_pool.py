"""Do steps in several processes on one machine."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from unlearn.apps.compare.execution.queue import Watcher, WorkQueue, advance, attempt
from unlearn.apps.compare.layout import Step
from unlearn.apps.compare.study import Study
from unlearn.runs.workers import Tell, run_in_processes

__all__ = ["run_apart"]


@dataclass(frozen=True)
class _StepQueue:
    """The steps of a comparison as processes take them.

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
        """Nobody is told the progress of a step in another process."""

    def ended(self, task: Step, result: str | None, error: Exception | None) -> None:
        """Note why a step has failed, or that it has not."""
        failure = result if error is None else f"{task.label}: {error}"
        self.queue.end(task, failure)
        self.watcher.ended(task, failure)


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
    work = functools.partial(_do, study)
    device = study.opening.get("device")
    run_in_processes(work, _StepQueue(queue, watcher), jobs, threads, device)


def _do(study: Study, step: Step, _: Tell) -> str | None:
    return attempt(step, study)
