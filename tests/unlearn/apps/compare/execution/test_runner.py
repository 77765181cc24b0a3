"""In which order steps are done, what failures take with them, and that processes end."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.compare.execution import runner as module
from unlearn.apps.compare.execution.runner import Workers, check_workers, held, run_steps, runner
from unlearn.apps.compare.layout import DONE, Step
from unlearn.apps.compare.study import Study
from unlearn.errors import OptionError, OutputError
from unlearn.runs import workers


class Log:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.begun_: list[str] = []
        self.ended_: dict[str, str | None] = {}

    @contextlib.contextmanager
    def begun(self, step: Step) -> Iterator[Any]:
        self.begun_.append(step.label)
        yield None

    def ended(self, step: Step, failure: str | None) -> None:
        self.ended_[step.label] = failure


@pytest.fixture
def step(tmp_path: Path):
    def make(label: str, *needs: Step) -> Step:
        return Step(
            "audit", label, tmp_path, label, {"label": label}, needs=tuple(n.folder for n in needs)
        )

    return make


@pytest.fixture
def work(monkeypatch):
    """Do as a step's label says, in this process."""
    from unlearn.apps.compare.execution import work as heavy

    def do(step: Step, study: Study, progress: Any = None) -> None:
        if step.label.startswith("bad"):
            raise OptionError("no such thing")
        if step.label.startswith("bug"):
            raise ZeroDivisionError("oh")
        step.folder.mkdir()
        (step.folder / DONE).write_text(json.dumps({"pid": os.getpid()}))

    monkeypatch.setattr(heavy, "do", do)


def test_a_failure_takes_only_what_needs_it_along(step, work, study):
    bad, good, bug = step("bad"), step("good"), step("bug")
    on_bad, on_good = step("on bad", bad, good), step("on good", good)
    on_both = step("on both", on_bad, on_good)
    log = Log()
    failures = run_steps([bad, good, bug, on_bad, on_good, on_both], study(), log)
    assert log.begun_ == ["bad", "good", "bug", "on good"]
    why = "bad: no such thing"
    assert log.ended_ == {
        "bad": why,
        "good": None,
        "bug": "bug: ZeroDivisionError: oh",
        "on bad": why,
        "on good": None,
        "on both": why,
    }
    assert failures == {s.folder: why for s in (bad, on_bad, on_both)} | {
        bug.folder: "bug: ZeroDivisionError: oh"
    }
    # once more: what is done is left alone, and what failed is tried again
    again = Log()
    run_steps([bad, good, on_good], study(), again)
    assert again.begun_ == ["bad"]


def test_nobody_writes_into_a_folder_that_another_writes_into(tmp_path):
    refused = pytest.raises(OutputError, match="another comparison is running")
    with held(tmp_path), refused, held(tmp_path):
        pass
    with held(tmp_path):  # free again
        pass


@pytest.mark.slow
def test_processes_do_what_there_is_and_all_end(step, study, tmp_path):
    import multiprocessing

    missing = [step(f"s{i}") for i in range(3)]
    log = Log()
    # these steps have no records to work on, and say so from another process
    with runner(Workers(jobs=2)) as run:
        failures = run_steps(missing, study(), log, run)
    assert set(failures) == {s.folder for s in missing}
    assert all("KeyError" in reason for reason in failures.values())
    assert not log.begun_
    assert (missing[0].folder / "error.txt").read_text().startswith("Traceback")
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_process_that_dies_takes_its_step_along(step, study, monkeypatch):
    import multiprocessing

    monkeypatch.setattr(workers, "_serve", die)
    steps = [step(f"s{i}") for i in range(3)]
    with runner(Workers(jobs=2)) as run:
        failures = run_steps(steps, study(), Log(), run)
    assert sorted(failures.values()) == [
        f"s{i}: its process ended unexpectedly (exit code 9)" for i in range(3)
    ]
    assert not multiprocessing.active_children()


def die(pipe: Any, *_: Any) -> None:
    """Stand in for a process that the system kills."""
    pipe.recv()
    os._exit(9)


@pytest.mark.slow
def test_a_process_that_died_while_idle_is_replaced(step, study, monkeypatch):
    import multiprocessing

    monkeypatch.setattr(workers, "_serve", leave_when_idle)
    first, second = step("first"), step("second")
    last = step("last", first, second)  # of the two workers one waits meanwhile, and goes
    with runner(Workers(jobs=2)) as run:
        assert run_steps([first, second, last], study(), Log(), run) == {}
    assert not multiprocessing.active_children()


def leave_when_idle(pipe: Any, *_: Any) -> None:
    """Stand in for a process that does one step, and is killed when it waits for the next."""
    label = pipe.recv().label
    time.sleep(0.0 if label == "first" else 2.0)  # so that the first has gone by then
    pipe.send(workers._End(None, None))
    os._exit(9)


@pytest.mark.slow
def test_threads_follow_from_the_processes_that_are_asked_for(step, study, monkeypatch):
    import torch

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr(workers, "_serve", tell_threads)
    monkeypatch.setattr(module, "attempt", lambda *_: str(torch.get_num_threads()))
    before = torch.get_num_threads()
    for few in (1, 2):
        with runner(Workers(jobs=4)) as run:
            found = run_steps([step(f"{few} {i}") for i in range(few)], study(), Log(), run)
        assert set(found.values()) == {"3"}
    assert torch.get_num_threads() == before
    assert [module.threads_for(jobs) for jobs in (1, 5, 99)] == [12, 2, 1]


def tell_threads(pipe: Any, work: Any, number: int, threads: int, device: Any) -> None:
    """Stand in for a process: fail for the number of threads it has."""
    while True:
        pipe.recv()
        pipe.send(workers._End(str(threads), None))


def test_what_need_not_be_done_after_all_is_left_out(step, work, study):
    first, spared = step("first"), step("spared")
    asked = []

    def is_spared(step: Step) -> bool:
        asked.append((step.label, first.done))
        return step.label == "spared"

    needing = step("needs first", first)
    log = Log()
    assert run_steps([spared, first, needing], study(), log, spared=is_spared) == {}
    assert log.begun_ == ["first", "needs first"]
    assert not spared.done
    assert ("needs first", True) in asked  # when all is there for it, and not before
    assert ("needs first", False) not in asked


def test_an_engine_that_is_not_there(monkeypatch):
    check_workers(Workers("local"))
    with pytest.raises(OptionError, match="did you mean 'ray'"):
        check_workers(Workers("rya"))
    with pytest.raises(OptionError, match="--engine ray"):
        check_workers(Workers("local", address="10.0.0.1:6379"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install '\.\[ray\]'"):
        check_workers(Workers("ray"))


def test_an_interruption_goes_through(step, study, monkeypatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "attempt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_steps([step("one")], study(), Log())
