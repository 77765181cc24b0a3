"""Run the steps that are not done: one after the other, or in several processes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.apps.compare.execution.queue import Runner, Watcher, WorkQueue, advance, attempt
from unlearn.apps.compare.layout import Step
from unlearn.apps.compare.study import Study
from unlearn.errors import OutputError
from unlearn.runs.ray_cluster import check_engine
from unlearn.runs.workers import as_one_of, threads_for

__all__ = ["Workers", "check_workers", "held", "run_steps", "runner"]


@dataclass(frozen=True)
class Workers:
    """What does the steps of a comparison.

    Attributes:
        engine: one of `ENGINES`.
        jobs: processes at once; with 1 the local engine works in this one.
        address: of a Ray cluster to join, instead of one of this machine's.
    """

    engine: str = "local"
    jobs: int = 1
    address: str | None = None


IN_THIS_PROCESS = Workers()


def check_workers(workers: Workers) -> None:
    """Refuse an engine that is not there with an OptionError that says what to do."""
    check_engine(workers.engine, workers.address)


@contextlib.contextmanager
def runner(workers: Workers = IN_THIS_PROCESS) -> Iterator[Runner]:
    """Yield what does steps; nothing is started before there is one to do."""
    if workers.engine == "ray":
        from unlearn.apps.compare.execution.ray_cluster import on_ray

        with on_ray(workers.jobs, workers.address) as run:
            yield run
    else:
        yield functools.partial(_locally, jobs=workers.jobs)


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
    queue = WorkQueue([step for step in steps if not step.done], {}, set(), spared)
    (run or _locally)(queue, study, watcher)
    return queue.failures


def _locally(queue: WorkQueue, study: Study, watcher: Watcher, jobs: int = 1) -> None:
    """Do steps in this process, or in several of this machine's."""
    if jobs > 1 and len(queue.waiting) > 1:
        from unlearn.apps.compare.execution.local_pool import run_apart

        run_apart(queue, study, watcher, min(jobs, len(queue.waiting)), threads_for(jobs))
        return
    with as_one_of(jobs):
        while (step := advance(queue, watcher)) is not None:
            with watcher.begun(step) as progress:
                failure = attempt(step, study, progress)
            queue.end(step, failure)
            watcher.ended(step, failure)


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
