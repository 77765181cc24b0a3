"""Commands that end early: nobody reads, Ctrl-C, SIGTERM, a full disk."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unlearn.apps.cli import run
from unlearn.apps.cli.ending import Interrupted, listening, what_becomes_of_it
from unlearn.processes import if_interrupted

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and signals")

VERBS = ["finetune", "forget", "references", "audit", "verify", "compare", "benchmark", "demo"]
GROUPS = ["request", "certificate", "key", "recipes", "methods", "attacks"]


@pytest.mark.parametrize("words", [["--help"], [], ["forget", "-h"], ["request", "run", "--help"],
                                   ["recipes", "ls"], ["attacks"], ["--version"]])  # fmt: skip
@pytest.mark.parametrize("both", [False, True])
def test_a_closed_pipe_is_no_traceback(words: list[str], both: bool) -> None:
    read, write = os.pipe()
    os.close(read)
    err = write if both else subprocess.PIPE
    done = subprocess.run(
        [sys.executable, "-m", "unlearn", *words], stdout=write, stderr=err, timeout=60, check=False
    )
    os.close(write)
    assert done.returncode in (0, 141)
    assert not done.stderr


@pytest.mark.parametrize("verb", [*VERBS, *GROUPS])
def test_the_help_of_every_verb_may_be_cut_short(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", stream)
        assert run([verb, "--help"]) in (0, 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("words", [["methods"], ["--version"]])
def test_output_that_cannot_be_written_is_said(words: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "unlearn", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.25, 0.4, 0.8, 1.2, 1.6, 2.5])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_while_starting_is_one_line(
    number: signal.Signals,
    code: int,
    delay: float,
    tiny_model: Path,
    data_file: Path,
    tmp_path: Path,
) -> None:
    words = ["finetune", "--model", str(tiny_model), "--data", str(data_file)]
    words += ["--output", str(tmp_path / "out"), "-o", "max_steps=1000000"]
    with subprocess.Popen(
        [sys.executable, "-m", "unlearn", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        time.sleep(delay)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert len(err.splitlines()) == 1
    assert "nothing half-written was kept" in err


def test_what_becomes_of_the_work_is_said_with_the_command() -> None:
    with (
        pytest.raises(Interrupted) as stop,
        if_interrupted(lambda: "steps stay, and the same command goes on"),
        if_interrupted(lambda: "an inner word"),
    ):
        raise Interrupted
    said = what_becomes_of_it(stop.value, ["compare", "my recipe", "--output", "x"])
    assert said.endswith("the same command goes on: unlearn compare 'my recipe' --output x")
    with pytest.raises(ValueError, match="x") as plain, if_interrupted(lambda: "no word"):
        raise ValueError("x")
    assert not getattr(plain.value, "__notes__", [])


def test_signals_are_heard_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted), listening():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.fixture
def importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that is interrupted while it is imported, and ends at once then."""
    lines = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "interrupted_while_imported.py").write_text(lines)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "interrupted_while_imported"
    sys.modules.pop("interrupted_while_imported", None)


def test_an_interruption_leaves_no_timer_behind(importing: str) -> None:
    alarms: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: alarms.append(number))
    try:
        with listening():
            importlib.import_module(importing)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        time.sleep(0.1)
        assert not alarms
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_second_interruption_stops_the_timer_of_the_first(importing: str) -> None:
    with listening():
        with pytest.raises(Interrupted):
            importlib.import_module(importing)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGALRM)  # one that was on its way


def test_an_interrupted_training_says_from_where_it_goes_on(
    tiny_model: Path,
    data_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from unlearn.runs.progress import PlainLines

    def stop(self: PlainLines, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(PlainLines, "__call__", stop)
    words = ["finetune", "--model", str(tiny_model), "--data", str(data_file)]
    words += ["--output", str(tmp_path / "out"), "-o", "max_steps=4", "-o", "batch_size=4"]
    assert run([*words, "-o", "save_steps=2"]) == 130
    err = capsys.readouterr().err
    assert "from its checkpoint at step 2 with the same command: unlearn finetune" in err
    assert run([*words, "--overwrite"]) == 130
    assert "begins anew (-o save_steps=N" in capsys.readouterr().err
