"""Share the work on records out over the processes that a launcher started.

Every process runs the same program on the same input. Where it comes to records, each looks at its
share of them, and all are told what the others found; so whatever follows is the same everywhere.
One process alone does everything, and none of this costs anything.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import distributed

from unlearn.errors import OptionError, UnlearnError
from unlearn.processes import local_rank, portable, splitting, world_size

__all__ = [
    "ProcessLostError",
    "alone",
    "everywhere",
    "first",
    "from_first",
    "gathered",
    "sharded",
    "together",
]

T = TypeVar("T")
P = ParamSpec("P")

# A share can take hours. A process that dies closes its connections, which is noticed at once.
_PATIENCE = timedelta(days=7)
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


class _Announcement(NamedTuple):
    """What processes tell each other before any result: they must be at the same place."""

    work: str
    error: Exception | None


class ProcessLostError(UnlearnError):
    """Another process ended, or does something else: nothing can go on."""


def together(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function run in all processes of `accelerate launch` or `torchrun`, connected.

    All of them must call it, and what one of them raises is raised in all.

    Args:
        function: what to run.

    Returns:
        The function; in one process it does what it did.
    """

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> T:
        _connect()
        return everywhere(lambda: function(*args, **options))

    return run


def _connect() -> None:
    """Connect the processes, unless they are already, or there is one.

    They stay connected until they end: to meet anew, they would find addresses of the first time.
    """
    if _size() > 1 or world_size() == 1:
        return
    if asked := splitting():
        raise OptionError(
            f"accelerate was launched with {asked}, and only finetune and forget split weights: "
            "start this with --multi_gpu, where each process holds the whole model"
        )
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    atexit.register(_disconnect)


def _disconnect() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let libraries believe that there is this process only: each trains the whole by itself."""
    before = {key: os.environ.pop(key) for key in _LAUNCHER if key in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def first() -> bool:
    """Return whether this is the process that writes."""
    return _rank() == 0


def sharded(
    work: Callable[[list[int]], Sequence[T]],
    total: int,
    progress: Callable[[int], None] | None = None,
) -> list[T]:
    """Return one result a record; record i is looked at by process i mod the number of them.

    Args:
        work: from positions of records to a result each, in order.
        total: how many records there are.
        progress: called with the number of records that other processes did.

    Returns:
        The results of all records, in order.

    Raises:
        Exception: in every process, what was raised in the first one that failed.
    """
    results: list[Any] = [None] * total
    for rank, part in enumerate(gathered(work, total, progress)):
        results[rank :: _size()] = part
    return results


def gathered(
    work: Callable[[list[int]], T], total: int, progress: Callable[[int], None] | None = None
) -> list[T]:
    """Return what each process made of its share, in the order of processes.

    Args:
        work: from positions of records to anything.
        total: how many records there are.
        progress: called with the number of records that other processes did.

    Returns:
        The results: of process r about records r, r + n, r + 2n, …

    Raises:
        Exception: in every process, what was raised in the first one that failed.
    """
    rank, size = _rank(), _size()
    mine = list(range(rank, total, size))
    if size == 1:
        return [work(mine)]
    results = _all(_agreed(lambda: work(mine), f"{total} records"))
    if progress:
        progress(total - len(mine))
    return results


def from_first(work: Callable[[], T]) -> T:
    """Return what the first process finds, in every process: of what lies on its disk, say.

    Args:
        work: what only the first process does.

    Returns:
        Its result.

    Raises:
        Exception: in every process, what was raised in the first.
    """
    if _size() == 1:
        return work()
    mine: Any = _agreed(lambda: work() if first() else None, "the first process")
    return _of_first(mine)  # type: ignore[no-any-return]


def everywhere(work: Callable[[], T]) -> T:
    """Do the same in every process; what fails in one fails in all of them.

    Without this a process that caught an error, and went on, would not be where the others are.

    Args:
        work: what to do; it may contain other calls of this module.

    Returns:
        The result of this process.

    Raises:
        Exception: in every process, what was raised in the first one that failed.
    """
    return work() if _size() == 1 else _agreed(work, "everywhere")


def _agreed(work: Callable[[], T], name: str) -> T:
    """Do some work, and raise what it raised in any process.

    An error that came from inside, out of another call of this function, is known to all already.
    """
    result: Any = None
    own = _Announcement(name, None)
    try:
        result = work()
    except Exception as error:
        if getattr(error, "known_to_all", False):
            raise
        own = _Announcement(name, error)
    portable_error = own.error and portable(own.error, f"in process {_rank()}: ")
    announced = _all(_Announcement(name, portable_error))
    failed = next((rank for rank, other in enumerate(announced) if other.error), None)
    if failed is not None:
        raised = own.error if failed == _rank() else announced[failed].error
        assert raised is not None
        raised.known_to_all = True  # type: ignore[attr-defined]
        raise raised
    if len({other.work for other in announced}) > 1:
        raise ProcessLostError(
            f"the processes are not at the same place ({', '.join(o.work for o in announced)}): "
            "start all of them with the same options and data"
        )
    return result  # type: ignore[no-any-return]


def _all(mine: T) -> list[T]:
    """Return what every process holds, in order."""
    values: list[Any] = [None] * _size()
    with _connected():
        distributed.all_gather_object(values, mine)
    return values


def _of_first(mine: T) -> T:
    """Return what the first process holds."""
    values: list[Any] = [mine]
    with _connected():
        distributed.broadcast_object_list(values, src=0)
    result: T = values[0]
    return result


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Say in plain words that another process has gone."""
    try:
        yield
    except RuntimeError as error:
        lost = ProcessLostError("another process ended before its work was done: see what it said")
        lost.known_to_all = True  # type: ignore[attr-defined]
        raise lost from error


def _size() -> int:
    joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if joined else 1


def _rank() -> int:
    return distributed.get_rank() if _size() > 1 else 0
