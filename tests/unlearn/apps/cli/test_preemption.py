"""SIGTERM keeps what was done, ends with 143, and the same command goes on to the same result."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.preemption import preemptible
from unlearn.provenance.lineage import weights_digest
from unlearn.runs.progress import PlainLines

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


class Scheduler:
    """Sends SIGTERM when as many steps as asked for were told of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.after: int | None = None
        self.told: list[int] = []
        monkeypatch.setattr(PlainLines, "__call__", self._tell())

    def _tell(self) -> Any:
        def tell(_: PlainLines, done: int, total: int) -> None:
            self.told.append(done)
            if len(self.told) == self.after:
                os.kill(os.getpid(), signal.SIGTERM)

        return tell

    def run(self, words: list[str], after: int | None = None) -> int:
        """Run a command, terminated after so many steps."""
        self.after, self.told = after, []
        return run(words)


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch, lineage_key: str) -> Scheduler:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    return Scheduler(monkeypatch)


@pytest.fixture
def base(tiny_model: Path, data_file: Path) -> list[str]:
    return ["--model", str(tiny_model), "--data", str(data_file)]


QUICK = ["-o", "batch_size=4", "-o", "learning_rate=1e-2", "-o", "save_steps=100"]
"""Checkpoints that are never due: what there is, SIGTERM has asked for."""


def trainings(base: list[str], adapter: Path) -> dict[str, list[str]]:
    on = ["--adapter", str(adapter), "--forget", "r0,r1,r2"]
    private = ["--dp", "epsilon=8", "-o", "epochs=6"]
    return {
        "finetune": ["finetune", *base, *QUICK, "-o", "max_steps=6", "-o", "lora_dropout=0.1"],
        "npo": ["forget", *base, *on, *QUICK, "-o", "max_steps=6", "--method", "npo"],
        "private": ["finetune", *base, *QUICK, *private],
    }


@pytest.mark.parametrize("kind", ["finetune", "npo", "private"])
def test_a_training_goes_on_from_where_sigterm_found_it(
    kind: str, scheduler: Scheduler, base: list[str], adapter: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if kind == "private":
        pytest.importorskip("opacus")
    words = trainings(base, adapter)[kind]
    assert scheduler.run([*words, "--output", str(tmp_path / "whole")]) == 0
    whole = scheduler.told
    again = [*words, "--output", str(tmp_path / "again")]
    for after, step in ((2, 2), (1, 3)):
        capsys.readouterr()
        assert scheduler.run(again, after) == 143
        assert scheduler.told[-1] == step  # the step under way is done, and no other
        error = capsys.readouterr().err
        assert f"from its checkpoint at step {step} with the same command: unlearn" in error
        assert not (tmp_path / "again").exists()
    assert scheduler.run(again) == 0
    assert scheduler.told[0] == 4
    assert scheduler.told[-1] == whole[-1]
    assert weights_digest(tmp_path / "again") == weights_digest(tmp_path / "whole")
    assert not list(tmp_path.glob(".again*"))


def test_a_signal_at_the_last_step_costs_nothing(
    scheduler: Scheduler, base: list[str], adapter: Path, tmp_path: Path
) -> None:
    words = [*trainings(base, adapter)["finetune"], "-o", "save_steps=4", "--output"]
    assert scheduler.run([*words, str(tmp_path / "whole")]) == 0
    assert scheduler.run([*words, str(tmp_path / "again")], after=6) == 143
    assert scheduler.run([*words, str(tmp_path / "again")]) == 0
    assert scheduler.told == []  # the last step always leaves a checkpoint
    assert weights_digest(tmp_path / "again") == weights_digest(tmp_path / "whole")


def test_references_that_are_whole_are_kept(
    scheduler: Scheduler, base: list[str], adapter: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["references", *base, "--like", str(adapter), "--forget", "r0,r1", "--count", "2"]
    assert scheduler.run([*words, "--output", str(tmp_path / "whole")]) == 0
    steps = len(scheduler.told)
    again = [*words, "--output", str(tmp_path / "again")]
    assert scheduler.run(again, after=steps // 2 + 2) == 143
    assert "the same command goes on: unlearn references" in capsys.readouterr().err
    names = ["reference-00", "reference-01"]
    assert [(tmp_path / "again" / name).exists() for name in names] == [True, False]
    assert scheduler.run(again) == 0
    assert len(scheduler.told) < steps
    for name in names:
        assert weights_digest(tmp_path / "again" / name) == weights_digest(
            tmp_path / "whole" / name
        )


def test_an_audit_begins_anew_with_what_it_had_scored(
    scheduler: Scheduler, base: list[str], adapter: Path, holdout_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, undrawn: None,
) -> None:  # fmt: skip
    def rows(name: str) -> Any:
        return json.loads((tmp_path / name / "audit.json").read_text())["rows"]

    tuned = trainings(base, adapter)["finetune"]
    assert scheduler.run([*tuned, "--output", str(tmp_path / "tuned")]) == 0
    words = ["audit", *base, "--adapter", str(tmp_path / "tuned"), "--before", str(adapter)]
    words += ["--forget", "r0,r1", "--holdout", str(holdout_file)]
    assert scheduler.run([*words, "--output", str(tmp_path / "whole"), "--no-cache"]) == 0
    told = len(scheduler.told)
    again = [*words, "--output", str(tmp_path / "again")]
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "home"))
    assert scheduler.run(again, after=told - 1) == 143
    assert not (tmp_path / "again").exists()
    assert scheduler.run(again) == 0
    assert rows("again") == rows("whole")


def test_a_signal_waits_and_then_does_what_it_did() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with pytest.raises(SystemExit) as stop, preemptible() as told:
            assert not told.asked
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert told.asked
            assert not heard
        assert stop.value.code == 143
        assert heard == [signal.SIGTERM]
        with pytest.raises(ValueError, match="first"), preemptible():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ValueError("first")  # what went wrong is said before that it was to stop
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with preemptible() as told:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not told.asked
    finally:
        signal.signal(signal.SIGTERM, before)
