"""Steps as tasks of Ray: the same numbers, and nothing that is left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.compare.comparing import compare
from unlearn.apps.compare.execution.runner import Workers, run_steps, runner
from unlearn.apps.compare.layout import Step
from unlearn.apps.compare.study import Study
from unlearn.errors import OptionError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither processes nor files of a cluster are left."""
    ray = pytest.importorskip("ray")
    before = raylets()
    folders = set(Path(tempfile.gettempdir()).glob("unlearn-ray-*"))
    yield
    with warnings.catch_warnings():
        # Ray ends its processes, and lets go of them without asking for their exit codes
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert not ray.is_initialized()
    for _ in range(50):
        if raylets() <= before:
            break
        time.sleep(0.1)
    assert raylets() <= before
    assert set(Path(tempfile.gettempdir()).glob("unlearn-ray-*")) <= folders


def raylets() -> set[int]:
    """Ids of the children of this process that belong to Ray and live."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = status.read_text().rpartition(")")
            state, parent = rest.split()[:2]
            ours = int(parent) == os.getpid() and state != "Z"
            if ours and ("raylet" in name or "gcs_server" in name):
                found.add(int(status.parent.name))
    return found


class Log:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.ended_: dict[str, str | None] = {}

    @contextlib.contextmanager
    def begun(self, step: Step) -> Iterator[Any]:
        yield None

    def ended(self, step: Step, failure: str | None) -> None:
        self.ended_[step.label] = failure


def test_a_cluster_finds_what_one_process_finds(recipe, tmp_path: Path) -> None:
    few = {"max_steps": 2, "batch_size": 2}
    mine = recipe(
        model="demo",
        methods=[{"method": "npo", "options": few}, {"method": "dpo", "options": few}],
        forget="r0,r1",
        seeds=(0,),
    )
    one = compare(mine, tmp_path / "one", dtype="float32")
    two = compare(mine, tmp_path / "two", workers=Workers("ray", 2), dtype="float32")
    timed = {"time", "memory"}
    assert len(one.rows) == len(two.rows) == 4
    for a, b in zip(one.rows, two.rows, strict=True):
        for head, x, y in zip(one.heads, a, b, strict=True):
            assert head in timed or x == y
    assert one.failures == two.failures
    assert "alternates" in one.failures[0]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.fixture
def steps(tmp_path: Path) -> list[Step]:
    first = Step("audit", "dies", tmp_path, "dies", {"label": "dies"})
    needs = Step("audit", "needs it", tmp_path, "n", {"label": "n"}, needs=(first.folder,))
    return [first, needs, Step("audit", "lives", tmp_path, "lives", {"label": "lives"})]


def test_a_worker_that_dies_takes_its_step_along(steps, study, tmp_path, monkeypatch):
    from unlearn.apps.compare.execution import ray_cluster as _ray

    def do(study: Study, step: Step, _: Any) -> str | None:
        if step.label == "dies":
            os._exit(9)
        return None

    monkeypatch.setattr(_ray, "_do", do)
    log = Log()
    with runner(Workers("ray", 1)) as run:
        failures = run_steps(steps, study(), log, run)
    assert set(failures) == {step.folder for step in steps[:2]}
    assert "its worker ended unexpectedly (WorkerCrashedError" in failures[steps[0].folder]
    assert log.ended_["needs it"] == log.ended_["dies"]
    assert log.ended_["lives"] is None


def test_an_interruption_lets_steps_clean_up_and_ends_all(steps, study, tmp_path, monkeypatch):
    from unlearn.apps.compare.execution import ray_cluster as _ray

    began, cleaned = tmp_path / "began", tmp_path / "cleaned"

    def do(study: Study, step: Step, _: Any) -> str | None:
        began.touch()
        try:
            # as a step does, it goes back to Python often: Ray interrupts there, not in a call
            for _ in range(600):
                time.sleep(0.1)
        finally:
            cleaned.touch()
        return None

    monkeypatch.setattr(_ray, "_do", do)

    def interrupt() -> None:
        while not began.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), runner(Workers("ray", 1)) as run:
        run_steps(steps, study(), Log(), run)
    assert cleaned.exists()
    assert time.monotonic() - start < 40


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:one"])
def test_a_cluster_that_is_not_there(steps, study, address: str):
    start = time.monotonic()
    with (
        pytest.raises(OptionError, match=f"no Ray cluster is at {address}"),
        runner(Workers("ray", 1, address)) as run,
    ):
        run_steps(steps, study(), Log(), run)
    assert time.monotonic() - start < 60  # Ray would try for ten minutes


def test_nothing_is_started_for_nothing():
    ray = pytest.importorskip("ray")
    with runner(Workers("ray", 2)) as run:
        assert run is not None
        assert not ray.is_initialized()
