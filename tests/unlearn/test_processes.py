"""Which process of a launcher this is, and environments that contradict themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from unlearn.apps.cli import run
from unlearn.errors import OptionError, OutputError
from unlearn.model.folders import place_of
from unlearn.processes import is_main, local_rank, portable, rank, splitting, world_size
from unlearn.training.launched import check_launched

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SPLITS = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
WORDS = ("FSDP", "DeepSpeed", "Megatron-LM")
LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    def set_to(**values: str) -> None:
        for name in (*NAMES, *SPLITS, *LAUNCHED):
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
    # what a launcher leaves of one process, a cluster of one, and an address without a launcher
    environment(ACCELERATE_MIXED_PRECISION="no", PMI_SIZE="1")
    assert world_size() == 1
    environment(MASTER_ADDR="127.0.0.1")
    assert world_size() == 1


@pytest.mark.parametrize(("name", "word"), [*zip(SPLITS, WORDS, strict=True)])
def test_splitting_weights_is_refused(name: str, word: str, environment) -> None:
    environment()
    assert splitting() is None
    assert place_of("cpu").type == "cpu"
    environment(**{name: "false"})
    assert splitting() is None
    environment(**{name: "True"})
    assert splitting() == word
    with pytest.raises(OptionError, match=f"launched with {word}, and (weights that it|on CPUs)"):
        place_of("cpu")


def test_accelerate_must_have_set_up_as_many_as_were_launched(environment) -> None:
    environment(RANK="0", WORLD_SIZE="2")
    check_launched(SimpleNamespace(num_processes=2))
    with pytest.raises(OptionError, match="2 processes were launched, and accelerate set up 1"):
        check_launched(SimpleNamespace(num_processes=1))


CONTRADICTIONS = [
    ({"RANK": "16"}, "RANK is 16, but WORLD_SIZE is not set"),
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, but there are 2"),
    ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one', which is no number"),
    ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1', which is no number"),
    ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', which is no number"),
    ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is 0"),
    ({"PMI_SIZE": "2"}, "PMI_SIZE is 2, but RANK and WORLD_SIZE are not set"),
    ({"OMPI_COMM_WORLD_SIZE": "3"}, "OMPI_COMM_WORLD_SIZE is 3, but RANK"),
    (
        {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"},
        "was asked for several processes and started one",
    ),
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
