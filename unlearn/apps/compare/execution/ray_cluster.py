"""Do steps as tasks of Ray, in a cluster of this machine's or one that is there already."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from unlearn.apps.compare.execution.queue import Runner, StepQueue, Watcher, WorkQueue, attempt
from unlearn.apps.compare.layout import Step
from unlearn.apps.compare.study import Study
from unlearn.runs.ray_cluster import cluster, work_through
from unlearn.runs.workers import Tell

__all__ = ["on_ray"]


@contextlib.contextmanager
def on_ray(jobs: int, address: str | None = None) -> Iterator[Runner]:
    """Run steps as Ray tasks; the cluster is started, or joined, when there is the first to do.

    However this ends, no task is left, and of a cluster of this machine's no process and no file.

    Args:
        jobs: workers of a cluster of this machine's.
        address: of an existing cluster instead, as `ray.init` takes it.

    Yields:
        What does the steps of a queue.

    Raises:
        OptionError: if there is no cluster at the address.
    """
    with contextlib.ExitStack() as stack:
        started: list[tuple[float, int]] = []

        def run(queue: WorkQueue, study: Study, watcher: Watcher) -> None:
            if not started:
                started.append(stack.enter_context(cluster(jobs, address)))
            work, tasks = functools.partial(_do, study), StepQueue(queue, watcher)
            most = None if address else jobs
            work_through(work, tasks, started[0], most, study.opening.get("device"))

        yield run


def _do(study: Study, step: Step, _: Tell) -> str | None:
    """Do a step in a worker."""
    if not study.root.is_dir():
        return f"{step.label}: the worker's machine does not see the output folder {study.root}"
    return attempt(step, study)
