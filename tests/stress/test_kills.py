"""Kill real commands at random moments: the result is the old one or the new one, whole."""

from __future__ import annotations

import os
import random
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
