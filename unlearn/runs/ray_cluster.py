"""A cluster of Ray, of this machine's own or one that is there already, and tasks on it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

from unlearn.errors import OptionError, UnlearnError, did_you_mean
from unlearn.processes import portable
from unlearn.runs.workers import Work, WorkerLostError, WorkList, threads_for

__all__ = ["ENGINES", "check_engine", "cluster", "run_on_ray", "work_through"]

T = TypeVar("T")
R = TypeVar("R")

ENGINES = ("local", "ray")
"""What does the work: this machine, or a cluster of Ray's."""

_PATIENCE = 10.0
"""Seconds in which tasks that are called off may clean up."""

_KNOCK = 5.0
"""Seconds in which a cluster must answer; Ray itself tries for some ten minutes."""

_STORE = 100_000_000
"""Bytes of Ray's object store, which takes a third of the memory otherwise: what goes through it
are names and reasons."""


def check_engine(engine: str, address: str | None = None) -> None:
    """Refuse an engine that is not there.

    Args:
        engine: that was asked for.
        address: of a cluster, if any was given.

    Raises:
        OptionError: saying what to do.
    """
    if engine not in ENGINES:
        hint = did_you_mean(engine, ENGINES)
        raise OptionError(f"unknown engine {engine!r}{hint}; choose {', '.join(ENGINES)}")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise OptionError(
            "--engine ray: Ray is not installed: in a clone of unlearn, pip install '.[ray]'"
        )
    if address and engine != "ray":
        raise OptionError("--address is that of a Ray cluster: give --engine ray")


@contextlib.contextmanager
def cluster(jobs: int, address: str | None = None) -> Iterator[tuple[float, int]]:
    """Start a cluster on this machine, or join one that is there.

    However this ends, no process and no file of one of this machine's is left.

    Args:
        jobs: workers of a cluster of this machine's.
        address: of an existing cluster instead, as `ray.init` takes it.

    Yields:
        The part of a GPU and the threads that a task has.

    Raises:
        OptionError: if Ray does not start, or there is no cluster at the address.
    """
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


def run_on_ray(
    work: Work[T, R],
    tasks: WorkList[T, R],
    jobs: int,
    address: str | None = None,
    device: str | None = None,
) -> None:
    """Do tasks as Ray tasks on a cluster that is there for them alone, or is joined for them.

    Args:
        work: does a task; can be pickled.
        tasks: what is to do, and who hears of it.
        jobs: workers of a cluster of this machine's.
        address: of an existing cluster instead.
        device: that the user chose.

    Raises:
        OptionError: if there is no cluster.
    """
    with cluster(jobs, address) as opened:
        work_through(work, tasks, opened, None if address else jobs, device)


def work_through(
    work: Work[T, R],
    tasks: WorkList[T, R],
    opened: tuple[float, int],
    jobs: int | None,
    device: str | None = None,
) -> None:
    """Do tasks on an open cluster, until none is left that can be done.

    Every task of an existing cluster takes one of its processors, and one of its GPUs where it has
    some; its machines must see the same files under the same paths, and have this package. A task
    tells nothing of how far it has come. However this ends, none is left.

    Args:
        work: does a task; can be pickled.
        tasks: what is to do, and who hears of it.
        opened: of `cluster`: the part of a GPU and the threads that a task has.
        jobs: how many at once; None for a cluster that queues what it has no room for.
        device: that the user chose.
    """
    import ray

    gpus, threads = opened
    share = 0.0 if str(device or "").startswith("cpu") else gpus
    # what fails is tried again by the same command, when its reason may be gone
    do: Any = ray.remote(_do).options(num_cpus=1, num_gpus=share, max_retries=0)
    shared = ray.put(work)
    running: dict[Any, T] = {}
    try:
        while True:
            while (jobs is None or len(running) < jobs) and (task := tasks.take()) is not None:
                running[do.remote(shared, task, threads)] = task
            if not running:
                return
            ready, _ = ray.wait(list(running))
            for reference in ready:
                tasks.ended(running.pop(reference), *_answer(reference))
    finally:
        for reference in running:
            ray.cancel(reference)  # as Ctrl-C does, so that what is half written goes away
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=_PATIENCE)


def _do(work: Work[T, R], task: T, threads: int) -> tuple[R | None, Exception | None]:
    """Do a task in a worker; an error comes back as one that can be told."""
    warnings.simplefilter("ignore")  # nobody reads a worker's output
    import torch

    torch.set_num_threads(threads)
    try:
        return work(task, lambda done, planned: None), None
    except Exception as error:
        return None, error if isinstance(error, UnlearnError) else portable(error)


def _answer(reference: Any) -> tuple[Any, Exception | None]:
    """Return what came of a task; a worker that died has failed its task."""
    import ray

    try:
        answer: tuple[Any, Exception | None] = ray.get(reference)
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else ""
        name = type(error).__name__
        return None, WorkerLostError(f"its worker ended unexpectedly ({name}: {why})")
    return answer
