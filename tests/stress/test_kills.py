"""Kill real commands at random moments: the result is the old one or the new one, whole."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unlearn.model.state import open_model
from unlearn.provenance.lineage import Lineage, weights_digest

# also slow, so that `-m "not slow"` leaves them out
pytestmark = [pytest.mark.stress, pytest.mark.slow]

KILLS = 100


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_forget_killed_at_random_moments(
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    lineage_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    output = tmp_path / "out"
    command = [sys.executable, "-m", "unlearn", "forget", "--model", str(tiny_model)]
    command += ["--adapter", str(adapter), "--data", str(data_file), "--forget", "r0,r1"]
    command += ["--output", str(output), "--overwrite", "-o", "stop=none", "-o", "save_steps=3"]
    command += ["-o", "max_steps=12", "-o", "batch_size=2"]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - start
    expected = weights_digest(output)
    rng = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        line = Lineage.read(output)
        assert line is not None
        assert line.digest == weights_digest(output) == expected
    assert killed > KILLS // 2
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert weights_digest(output) == expected  # also when it went on from a checkpoint
    open_model(tiny_model, output)


PREEMPTED = int(os.environ.get("PREEMPTED", "20"))


def told(folder: Path) -> object:
    """Return what a command wrote that must be the same, whatever happened on the way."""
    adapters = [p.parent for p in folder.rglob("adapter_config.json")]
    weights = {a.relative_to(folder).as_posix(): weights_digest(a) for a in adapters}
    rows = [json.loads(p.read_text())["rows"] for p in folder.rglob("audit.json")]
    return weights, rows


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("verb", ["finetune", "forget", "references", "audit"])
def test_preempted_at_random_moments(
    verb: str, tiny_model: Path, adapter: Path, data_file: Path, holdout_file: Path,
    lineage_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """SIGTERM as often as it takes: each time the same command goes on, until it is done."""
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "home"))
    base = ["--model", str(tiny_model), "--data", str(data_file)]
    on = ["--adapter", str(adapter), "--forget", "r0,r1"]
    steps = ["-o", "max_steps=400", "-o", "batch_size=4", "-o", "save_steps=1000"]
    words = {
        "finetune": [*base, *steps, "-o", "lora_dropout=0.1"],
        "forget": [*base, *on, *steps, "--method", "npo", "-o", "stop=none"],
        "references": [*base, "--forget", "r0,r1", "--count", "6", "-o", "max_steps=100"],
        "audit": [*base, *on, "--before", str(adapter), "--holdout", str(holdout_file),
                  "--also", "grad_norm", "--also", "recall", "--robustness", "all"],
    }[verb]  # fmt: skip
    command = [sys.executable, "-m", "unlearn", verb, *words, "--output"]
    start = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    whole = time.monotonic() - start
    shutil.rmtree(tmp_path / "home", ignore_errors=True)  # the scores of that run help nobody
    rng = random.Random(0)
    codes = []
    for _ in range(PREEMPTED):
        with subprocess.Popen(
            [*command, str(tmp_path / "again")], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            time.sleep(rng.uniform(0.3, 0.9) * whole)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=120)
        codes.append(process.returncode)
        assert process.returncode in (0, 143), err
        if process.returncode == 143:
            assert err.splitlines()[-1].startswith("unlearn: terminated;"), err
        # a result that takes its place in one rename is whole, also where the signal came after
        at_once = verb != "references" and (tmp_path / "again").exists()
        if process.returncode == 0 or at_once:
            assert told(tmp_path / "again") == told(tmp_path / "whole")
            for each in tmp_path.glob("again*"):
                shutil.rmtree(each)
            shutil.rmtree(tmp_path / "home", ignore_errors=True)
    assert codes.count(143) >= PREEMPTED // 4
    done = subprocess.run([*command, str(tmp_path / "again")], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert told(tmp_path / "again") == told(tmp_path / "whole")


def test_memory_does_not_grow_with_the_number_of_records(tiny_model: Path) -> None:
    import resource

    import numpy as np

    from unlearn.data.tokenization import Example
    from unlearn.model.scoring import score_examples

    state = open_model(tiny_model)
    rng = np.random.default_rng(0)

    def score(n: int) -> int:
        examples = [
            Example(str(i), rng.integers(3, 200, 40), np.arange(40) >= 20) for i in range(n)
        ]
        score_examples(state.model, state.head, examples)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    few = score(500)
    many = score(20_000)
    # what is kept is some 30 bytes a token and the examples themselves, not logits
    assert many - few < 200 * 1024
