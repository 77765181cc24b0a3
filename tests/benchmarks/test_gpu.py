"""`make gpu` works, as far as a CPU can tell: at a small size, with all of its parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("gpu.py")


def started(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True, text=True, timeout=200, check=False, env=os.environ,
    )  # fmt: skip


@pytest.mark.slow
def test_at_a_small_size_every_part_measures_something(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    file = tmp_path / "gpu.json"
    done = started(str(file), "--small", "--device", "cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(file.read_text())
    assert found["small"] is True
    names = [f"tiny {form} {m}" for form in ("bf16", "nf4") for m in ("retrain", "npo", "rmu")]
    assert list(found["steps"]) == names
    for row in found["steps"].values():
        assert row["tokens a second"] > 0
        assert row["peak MiB above the loaded model"] > 0
        assert row["share of the ceiling"] > 0
    whole, codes = (found["steps"][f"tiny {form} npo"] for form in ("bf16", "nf4"))
    for name in ("parameters", "operations of a step"):
        assert whole[name] == codes[name]
    assert codes["MiB of the loaded model"] < whole["MiB of the loaded model"]
    assert found["audit"]["tiny"]["records a second"] > 0
    # a CPU agrees with itself
    assert found["agreement"]["numbers of the audit"] > 10
    assert found["agreement"]["largest difference of one"] == 0
    assert found["agreement"]["distance of the deletions ÷ their length"] == 0
    assert found["replay"] == {"outcome": "PASS", "kind": "exact"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = started()
    assert done.returncode == 2
    words = "gpu.py: there is no CUDA device; --small --device cpu tries it out"
    assert done.stderr.splitlines()[-1] == words


def test_what_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu

    found = {"steps": {"a": {"x": 1}, "b": gpu.attempted(lambda: 1 / 0)}, "seconds": 1.0}
    found["replay"] = gpu.attempted(lambda: {"outcome": "PASS"})
    assert gpu.failures(found) == ["steps: b"]
    assert "ZeroDivisionError" in found["steps"]["b"]["error"]
