"""Processes that do tasks: what they answer, and that none is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from typing import Any

import pytest

from unlearn.errors import OptionError, UnlearnError
from unlearn.runs.workers import Tell, WorkerLostError, run_in_processes

pytestmark = pytest.mark.slow


class Numbers:
    """Tasks that are numbers, and what came of them."""

    def __init__(self, *numbers: int) -> None:
        self.waiting = list(numbers)
        self.steps: list[tuple[int, int, int]] = []
        self.results: dict[int, Any] = {}

    def take(self) -> int | None:
        return self.waiting.pop(0) if self.waiting else None

    def advanced(self, task: int, done: int, planned: int) -> None:
        self.steps.append((task, done, planned))

    def ended(self, task: int, result: Any, error: Exception | None) -> None:
        self.results[task] = error or result


class Odd(Exception):
    """An error that cannot be sent."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def work(number: int, tell: Tell) -> tuple[int, int]:
    """Do as a number says."""
    if number == 1:
        raise OptionError("no such number")
    if number == 2:
        raise ZeroDivisionError("by nothing")
    if number == 3:
        raise Odd(1, 2)
    if number == 4:
        os._exit(9)
    if number == 5:
        time.sleep(600)
    tell(1, 2)
    tell(2, 2)
    return os.getpid(), int(os.environ["OMP_NUM_THREADS"])


def test_tasks_and_their_errors_come_back() -> None:
    numbers = Numbers(10, 1, 2, 3, 4, 11)
    run_in_processes(work, numbers, jobs=2, threads=3)
    results = numbers.results
    assert sorted(results) == [1, 2, 3, 4, 10, 11]
    assert isinstance(results[1], OptionError)
    assert str(results[1]) == "no such number"
    assert isinstance(results[2], ZeroDivisionError)
    assert "in work" in results[2].__notes__[0]  # where it was, for whoever mends it
    assert type(results[3]) is RuntimeError
    assert str(results[3]) == "Odd: 1 and 2"
    assert isinstance(results[4], WorkerLostError)
    assert "exit code 9" in str(results[4])
    assert results[10][0] != os.getpid()
    assert results[10][1] == results[11][1] == 3
    assert [s for s in numbers.steps if s[0] == 10] == [(10, 1, 2), (10, 2, 2)]
    assert not multiprocessing.active_children()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_them(number: signal.Signals) -> None:
    class Stopped(BaseException):
        pass

    def stop(*_: Any) -> None:
        raise Stopped

    before = signal.signal(number, stop)
    try:
        threading.Timer(3, os.kill, (os.getpid(), number)).start()
        with pytest.raises(Stopped):
            run_in_processes(work, Numbers(5, 5), jobs=2, threads=1)
    finally:
        signal.signal(number, before)
    assert not multiprocessing.active_children()


def test_an_error_of_the_listener_ends_them() -> None:
    class Strict(Numbers):
        def ended(self, task: int, result: Any, error: Exception | None) -> None:
            if error:
                raise error

    with pytest.raises(UnlearnError, match="no such number"):
        run_in_processes(work, Strict(5, 1), jobs=2, threads=1)
    assert not multiprocessing.active_children()
