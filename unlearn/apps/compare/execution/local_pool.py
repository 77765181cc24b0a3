"""Do steps in several processes on one machine."""

from __future__ import annotations

import functools

from unlearn.apps.compare.execution.queue import StepQueue, Watcher, WorkQueue, attempt
from unlearn.apps.compare.layout import Step
from unlearn.apps.compare.study import Study
from unlearn.runs.workers import Tell, run_in_processes

__all__ = ["run_apart"]


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
    run_in_processes(work, StepQueue(queue, watcher), jobs, threads, device)


def _do(study: Study, step: Step, _: Tell) -> str | None:
    return attempt(step, study)
