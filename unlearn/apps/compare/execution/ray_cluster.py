"""Do steps as tasks of Ray, in a cluster of this machine's or one that is there already."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from unlearn.apps.compare.execution.queue import Runner, Watcher, WorkQueue, advance, attempt
from unlearn.apps.compare.layout import Step
from unlearn.apps.compare.study import Study
from unlearn.runs.ray_cluster import cluster

__all__ = ["on_ray"]

_PATIENCE = 10.0
"""Seconds in which steps that are called off may clean up."""


@contextlib.contextmanager
def on_ray(jobs: int, address: str | None = None) -> Iterator[Runner]:
    """Run steps as Ray tasks; the cluster is started, or joined, when there is the first to do.

    Every step of an existing cluster takes one of its processors, and one of its GPUs where it has
    some; its machines must see the output folder, model and data under the same paths, and have
    this package. However this ends, no task is left, and of a cluster of this machine's no process
    and no file.

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
            share, threads = started[0]
            share = 0.0 if str(study.opening.get("device") or "").startswith("cpu") else share
            # one that exists queues what it has no room for
            _run(queue, study, watcher, len(queue.waiting) if address else jobs, share, threads)

        yield run


def _run(
    queue: WorkQueue, study: Study, watcher: Watcher, most: int, gpus: float, threads: int
) -> None:
    """Do steps, at most so many at once, until nothing is left that can be done."""
    import ray

    # a step that fails is tried again by the same command, when its reason may be gone
    task = ray.remote(_do).options(num_cpus=1, num_gpus=gpus, max_retries=0)
    shared = ray.put(study)
    running: dict[Any, Step] = {}
    try:
        while True:
            while len(running) < most and (step := advance(queue, watcher)) is not None:
                running[task.remote(step, shared, threads)] = step
            if not running:
                return
            ready, _ = ray.wait(list(running))
            for reference in ready:
                step = running.pop(reference)
                failure = _answer(reference, step)
                queue.end(step, failure)
                watcher.ended(step, failure)
    finally:
        for reference in running:
            ray.cancel(reference)  # as Ctrl-C does, so that what is half written goes away
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=_PATIENCE)


def _answer(reference: Any, step: Step) -> str | None:
    """Return why a step has failed, or None; a worker that died is a failure."""
    import ray

    try:
        failure: str | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return f"{step.label}: its worker ended unexpectedly ({type(error).__name__}: {why})"
    return failure


def _do(step: Step, study: Study, threads: int) -> str | None:
    """Do a step in a worker."""
    warnings.simplefilter("ignore")  # nobody reads a worker's output
    import torch

    torch.set_num_threads(threads)
    if not study.root.is_dir():
        return f"{step.label}: the worker's machine does not see the output folder {study.root}"
    return attempt(step, study)
