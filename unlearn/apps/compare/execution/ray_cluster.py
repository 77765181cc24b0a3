"""Do steps as tasks of Ray, in a cluster of this machine's or one that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

from unlearn.apps.compare.execution.queue import Runner, Watcher, WorkQueue, advance, attempt
from unlearn.apps.compare.layout import Step
from unlearn.apps.compare.study import Study
from unlearn.errors import OptionError
from unlearn.runs.workers import threads_for

__all__ = ["on_ray"]

_PATIENCE = 10.0
"""Seconds in which steps that are called off may clean up."""

_KNOCK = 5.0
"""Seconds in which a cluster must answer; Ray itself tries for some ten minutes."""

_STORE = 100_000_000
"""Bytes of Ray's object store, which takes a third of the memory otherwise: what goes through it
are names and reasons."""


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
                started.append(stack.enter_context(_cluster(jobs, address)))
            share, threads = started[0]
            share = 0.0 if str(study.opening.get("device") or "").startswith("cpu") else share
            # one that exists queues what it has no room for
            _run(queue, study, watcher, len(queue.waiting) if address else jobs, share, threads)

        yield run


@contextlib.contextmanager
def _cluster(jobs: int, address: str | None) -> Iterator[tuple[float, int]]:
    """Start or join a cluster; yields the GPUs and the threads of a step."""
    if address:
        _knock(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns otherwise
    import ray

    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    folder = None
    if not address:
        folder = tempfile.mkdtemp(prefix="unlearn-ray-")
        how |= {"num_cpus": jobs, "include_dashboard": False, "object_store_memory": _STORE}
        how |= {"_temp_dir": folder}
    try:
        try:
            ray.init(address=address or "local", **how)  # local: whatever RAY_ADDRESS says
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            what = f"no Ray cluster is at {address}" if address else "Ray does not start here"
            raise OptionError(f"--engine ray: {what}: {reason}") from error
        resources: Any = ray.cluster_resources  # it has no types
        gpus = float(resources().get("GPU", 0.0))
        share = min(1.0, gpus if address else gpus / jobs)
        yield share, 1 if address else threads_for(jobs)
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _knock(address: str) -> None:
    """Refuse an address at which nobody answers."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # such as auto, which Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK).close()
    except (OSError, ValueError, OverflowError) as error:
        raise OptionError(f"--engine ray: no Ray cluster is at {address}: {error}") from None


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
