"""Commands under `accelerate launch`: several processes give what one gives, with one voice."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("commands_in_turn.py")
PLAIN = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def launched(*words: str, options: list[str], **given: Any) -> subprocess.CompletedProcess[str]:
    """Start a script as `accelerate launch` does."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    return subprocess.run(
        [*launcher, *options, *words],
        capture_output=True, text=True, timeout=200, check=False, **given,
    )  # fmt: skip


def ours(text: str) -> list[str]:
    """Return the lines that our processes wrote, not the launcher."""
    return [line for line in text.splitlines() if line.startswith("unlearn: ")]


def commands(
    model: Path, adapter: Path, data: Path, holdout: Path, one: Path, out: Path
) -> list[list[str]]:
    """Train, forget and audit; what the audit looks at is always what one process made."""
    base = ["--model", str(model), "--data", str(data)]
    on = ["--adapter", str(adapter), "--forget", "r0,r1,r2,r3"]
    rate = ["-o", "learning_rate=1e-2", "-o", "max_steps=6", "-o", "batch_size=4"]
    audited = ["--before", str(adapter), "--adapter", str(one / "forgotten")]
    return [
        ["finetune", *base, "--output", str(out / "tuned"), *rate],
        ["forget", *base, *on, "--method", "npo", "--output", str(out / "forgotten"), *rate],
        ["audit", *base, *audited, "--forget", "r0,r1,r2,r3", "--holdout", str(holdout),
         "--no-cache", "--output", str(out / "audit")],
    ]  # fmt: skip


def distance(folder: Path, other: Path) -> float:
    """Return ‖a − b‖ ÷ ‖a‖ of the weights of two adapters."""
    a, b = (load_file(each / "adapter_model.safetensors") for each in (folder, other))
    assert a.keys() == b.keys()
    one, two = (torch.cat([w[n].flatten().double() for n in sorted(w)]) for w in (a, b))
    return float((one - two).norm() / one.norm())


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of an audit."""
    rows = json.loads((folder / "audit.json").read_text())["rows"]
    assert isinstance(rows, list)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "far"), [(2, 0.0), (4, 1e-4)])
def test_so_many_processes_give_what_one_gives(
    processes: int, far: float, tiny_model: Path, adapter: Path, data_file: Path,
    holdout_file: Path, lineage_key: str, tmp_path: Path,
) -> None:  # fmt: skip
    """A step of four records is split over processes as one process splits it into micro-batches.

    Sums of two parts are the same in any order, so two processes give the same bits. Of four the
    order of float32 sums differs, and AdamW's first steps divide small gradients by their own size.
    """
    files = (tiny_model, adapter, data_file, holdout_file, tmp_path / "one")
    environment = os.environ | {"UNLEARN_KEY": lineage_key}
    one = commands(*files, tmp_path / "one")
    for words in one[:2]:
        words += ["-o", f"micro_batch_size={4 // processes}"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(one)],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    done = launched(
        str(SCRIPT), json.dumps(commands(*files, tmp_path / "many")),
        options=["--multi_gpu", "--num_processes", str(processes), *PLAIN], env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("tuned", "forgotten"):
        assert distance(tmp_path / "one" / name, tmp_path / "many" / name) <= far, name
        facts = json.loads((tmp_path / "many" / name / "lineage.json").read_text())["environment"]
        assert facts["processes"] == processes
    one, many = numbers(tmp_path / "one" / "audit"), numbers(tmp_path / "many" / "audit")
    assert len(one) > 100
    for expected, found in zip(one, many, strict=True):
        for key in ("value", "low", "high"):
            a, b = expected.pop(key), found.pop(key)
            same = a is b is None or (a is not None and math.isclose(a, b, abs_tol=1e-6))
            assert same, (expected, key, a, b)
        assert expected == found
    plans = [line for line in done.stdout.splitlines() if line.startswith(("train ", "npo: "))]
    assert len(plans) == 2  # one voice


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "kind", "code", "words"),
    [
        ("1", "wrong", 2, "unlearn: this disk is full"),
        ("0", "wrong", 2, "unlearn: this disk is full"),
        ("1", "bug", 1, "ZeroDivisionError: odd"),
        ("1", "killed", 1, "unlearn: another process ended"),
    ],
)
def test_what_fails_in_one_process_ends_all_with_one_message(
    rank: str, kind: str, code: int, words: str,
    tiny_model: Path, data_file: Path, tmp_path: Path,
) -> None:  # fmt: skip
    command = ["finetune", "--model", str(tiny_model), "--data", str(data_file), "-o",
               "max_steps=100", "--output", str(tmp_path / "out")]  # fmt: skip
    done = launched(
        str(SCRIPT), json.dumps([command]), rank, kind,
        options=["--multi_gpu", "--num_processes", "2", *PLAIN],
    )  # fmt: skip
    assert done.returncode == 1  # the launcher's own, whatever its processes end with
    said = [line for line in done.stderr.splitlines() if words in line]
    assert len(said) == 1, done.stderr[-3000:]
    assert len(ours(done.stderr)) == (kind != "bug")
    told = "SIGKILL" if kind == "killed" else f"exitcode  : {code} "
    assert told in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_sigterm_to_one_process_keeps_the_work_of_all(
    tiny_model: Path, data_file: Path, lineage_key: str, tmp_path: Path
) -> None:
    """The others are told at the end of the step, and none takes the run for done."""
    environment = os.environ | {"UNLEARN_KEY": lineage_key}
    words = ["finetune", "--model", str(tiny_model), "--data", str(data_file), "-o", "max_steps=6",
             "-o", "batch_size=4", "-o", "save_steps=100", "--output"]  # fmt: skip
    whole, again = ([*words, str(tmp_path / name)] for name in ("whole", "again"))
    options = ["--multi_gpu", "--num_processes", "2", *PLAIN]
    done = launched(
        str(SCRIPT), json.dumps([whole, again]), "1", "preempted", options=options, env=environment
    )
    assert done.returncode == 1
    (line,) = ours(done.stderr)
    assert line.startswith("unlearn: terminated; nothing half-written was kept; the training goes")
    assert "from its checkpoint at step 3 with the same command" in line
    assert [p.name for p in (tmp_path / ".again.checkpoints").glob("*-*")] == ["checkpoint-3"]
    assert not (tmp_path / "again").exists()
    done = launched(str(SCRIPT), json.dumps([again]), options=options, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert distance(tmp_path / "whole", tmp_path / "again") == 0


CONFIGURATIONS = {
    "MULTI_CPU": (
        "distributed_type: MULTI_CPU\n",
        "was asked for several processes and started one",
    ),
    "FSDP": (
        "distributed_type: FSDP\nfsdp_config:\n  fsdp_version: 2\n",
        "was launched with FSDP, and on CPUs it splits nothing and does not say so",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_what_would_run_otherwise_than_asked_for_is_refused(
    kind: str, tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    lines, words = CONFIGURATIONS[kind]
    file = tmp_path / "accelerate.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\nnum_machines: 1\nnum_processes: 2\nuse_cpu: true\n"
        + lines
    )
    done = launched(
        "-m", "unlearn", "finetune", "--model", str(tiny_model), "--data", str(data_file),
        "--output", str(tmp_path / "out"),
        options=["--config_file", str(file)],
    )  # fmt: skip
    assert done.returncode != 0
    (line,) = ours(done.stderr)
    assert words in line
    assert not (tmp_path / "out").exists()
