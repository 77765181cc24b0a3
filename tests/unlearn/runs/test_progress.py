"""How far a run is: plain lines without a terminal, a function of the user's own, or nothing."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest

from unlearn import finetune, forget
from unlearn.runs import progress as module
from unlearn.runs.progress import PlainLines, shown
from unlearn.training.telling import tell_losses

QUICK = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(seconds: float, steps: int) -> list[str]:
    stream, clock = io.StringIO(), Clock()
    lines = PlainLines("training", stream=stream, clock=clock)
    for step in range(1, steps + 1):
        clock.now += seconds / steps
        lines.losses({"forget": 2.0 * step, "retain": 0.5})
        lines(step, steps)
    return stream.getvalue().splitlines()


def test_what_is_over_at_once_writes_nothing() -> None:
    assert lines_of(4.0, 100) == []


def test_a_long_run_says_steps_losses_and_time_left_on_plain_lines() -> None:
    lines = lines_of(39 * 60, 780)
    assert lines[0].startswith("training: 2 of 780 steps (0%), loss: forget 3.00, retain 0.50, ")
    assert lines[0].endswith("about 39 min left")
    assert lines[-1].startswith("training: 780 of 780 steps (100%)")
    assert lines[-1].endswith("39 min in all")
    assert 30 < len(lines) < 90
    assert not any("\x1b" in line or "\r" in line for line in lines)


def test_the_number_of_lines_is_bounded() -> None:
    assert len(lines_of(100 * 3600, 200_000)) < 200


def test_another_stage_counts_anew_and_an_unknown_total_is_left_out() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = PlainLines("scoring", "records", stream, clock)
    for done in (10, 20, 5):
        clock.now += 6
        lines(done, 0)
    assert stream.getvalue().splitlines()[0] == "scoring: 10 records"


def test_a_closed_stream_is_no_error() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = PlainLines("training", stream=stream, clock=clock)
    stream.close()
    clock.now = 60
    lines(1, 2)


def test_a_function_of_the_users_own_is_called_and_told_the_losses() -> None:
    told: list[Mapping[str, float]] = []

    class Mine:
        def losses(self, losses: Mapping[str, float]) -> None:
            told.append(losses)

        def __call__(self, done: int, total: int) -> None: ...

    mine = Mine()
    with shown(mine, "x") as watcher:
        assert watcher is mine
        tell_losses({"loss": 1.0})
    tell_losses({"loss": 2.0})
    assert told == [{"loss": 1.0}]


def test_false_shows_nothing_and_the_default_lines_without_a_terminal() -> None:
    with shown(False, "x") as watcher:
        assert watcher is None
    with shown(None, "x") as watcher:
        assert isinstance(watcher, PlainLines)


@pytest.mark.parametrize("progress", [None, False])
def test_python_runs_show_lines_unless_told_not_to(
    progress: bool | None,
    tiny_model: Path,
    data_file: Path,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "_FIRST", 0.0)
    finetune(tiny_model, data_file, tmp_path / "a", options=QUICK, progress=progress)
    more = QUICK | {"stop": "none"}
    forget(
        tiny_model, data_file, "r0", tmp_path / "b", adapter=adapter, method="npo",
        options=more, progress=progress,
    )  # fmt: skip
    err = capsys.readouterr().err
    assert ("training: 1 of 3 steps (33%), loss " in err) == (progress is None)
    assert ("unlearning: 1 of 3 steps (33%), loss: forget " in err) == (progress is None)


def test_the_terms_of_a_step_add_up_to_its_loss(
    tiny_model: Path, data_file: Path, adapter: Path, tmp_path: Path
) -> None:
    told: list[Mapping[str, float]] = []

    def progress(done: int, total: int) -> None: ...

    progress.losses = told.append  # type: ignore[attr-defined]
    options = QUICK | {"stop": "none"}
    result = forget(
        tiny_model, data_file, "r0,r1", tmp_path / "b", adapter=adapter, method="npo",
        options=options, progress=progress,
    )  # fmt: skip
    logged = [entry for entry in result.fit.history if "forget_loss" in entry]
    assert len(told) == 3
    assert [sorted(losses) for losses in told] == [["forget", "retain"]] * 3
    for losses, entry in zip(told, logged, strict=True):
        assert losses["forget"] == pytest.approx(entry["forget_loss"])
        assert losses["retain"] == pytest.approx(entry["retain_loss"])
