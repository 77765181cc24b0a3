"""Which process of a launcher this is, and environments that contradict themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unlearn.apps.cli import run
from unlearn.errors import OptionError, OutputError
from unlearn.processes import is_main, local_rank, portable, rank, world_size

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    def set_to(**values: str) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_to


def test_what_a_launcher_says(environment) -> None:
    environment()
    assert (rank(), world_size(), local_rank(), is_main()) == (0, 1, 0, True)
    environment(RANK="", WORLD_SIZE="")
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    environment(RANK="3", WORLD_SIZE="4", LOCAL_RANK="1")
    assert (rank(), world_size(), local_rank(), is_main()) == (3, 4, 1, False)
    environment(RANK="0", WORLD_SIZE="4")
    assert is_main()


CONTRADICTIONS = [
    ({"RANK": "16"}, "RANK is 16, but WORLD_SIZE is not set"),
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, but there are 2"),
    ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one', which is no number"),
    ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1', which is no number"),
    ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', which is no number"),
    ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is 0"),
]


@pytest.mark.parametrize(("values", "problem"), CONTRADICTIONS)
def test_a_contradiction_is_one_line_and_nothing_is_trained(
    values: dict[str, str], problem: str, environment, data_file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    environment(**values)
    output = tmp_path / "adapter"
    words = ["finetune", "--model", "none", "--data", str(data_file), "--output", str(output)]
    assert run(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert problem in lines[0]
    assert not output.exists()
    for asked in (rank, world_size, is_main):
        with pytest.raises(OptionError, match=problem):
            asked()


def test_so_it_is_for_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in NAMES} | {"RANK": "16"}
    done = subprocess.run(
        [sys.executable, "-m", "unlearn", "finetune", "--model", "none", "--data", "none.jsonl",
         "--output", str(tmp_path / "adapter")],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("unlearn: RANK is 16, but WORLD_SIZE is not set")
    assert done.stderr.count("\n") == 1


def test_errors_travel() -> None:
    class Odd(Exception):
        pass

    error = OutputError("the disk is full")
    assert portable(error) is error
    told = portable(Odd("so"), "in process 1: ")
    assert type(told) is RuntimeError
    assert str(told) == "in process 1: Odd: so"
