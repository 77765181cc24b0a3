"""What a step leaves and takes away, and which device is its own; devices are made up."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from unlearn.apps.compare.execution import peak_memory as _memory
from unlearn.apps.compare.execution import work
from unlearn.apps.compare.layout import DONE, Step
from unlearn.runs import workers


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two GPUs, the second of which is used; note which one is asked for."""
    asked: dict[str, Any] = {}

    def used(device: Any) -> int:
        asked["device"] = str(device)
        return 100

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda n: asked.update(current=n))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", used)
    monkeypatch.setattr(torch.cuda, "memory_allocated", used)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * used(device))
    return asked


def test_memory_is_that_of_the_device_that_is_used(gpus: dict[str, Any]) -> None:
    with _memory.peak(torch.device("cuda:1")) as most:
        pass
    assert (most.bytes, gpus["device"]) == (400, "cuda:1")
    del gpus["device"]
    with _memory.peak(torch.device("cpu")):
        pass
    assert "device" not in gpus


@pytest.mark.parametrize(("device", "current"), [(None, 1), ("cuda", 1), ("cuda:0", None)])
def test_processes_share_the_gpus(gpus: dict[str, Any], device: str | None, current: Any) -> None:
    workers._take_gpu(3, device)
    assert gpus.get("current") == current


def test_a_step_notes_its_precision_and_removes_what_a_killed_one_left(
    study, tmp_path, monkeypatch
) -> None:
    step = Step("audit", "one", tmp_path, "one", {})
    (step.folder / ".audit.partial-1").mkdir(parents=True)
    (step.folder / ".settings.json.partial-1").write_text("{")
    monkeypatch.setitem(work._KINDS, "audit", lambda *_: {})
    monkeypatch.setattr(work, "_warm", lambda: None)
    mine = study()
    work.do(step, type(mine)(mine.recipe, mine.root, {"dtype": "auto", "device": "cpu"}))
    assert {path.name for path in step.folder.iterdir()} == {"settings.json", DONE}
    assert json.loads((step.folder / DONE).read_text())["dtype"] == "float32"
