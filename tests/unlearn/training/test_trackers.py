"""Curves of training runs in a tracker, and nothing else changed by it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from unlearn.apps.cli import run
from unlearn.apps.demo import base_path
from unlearn.errors import OptionError
from unlearn.provenance.lineage import Lineage
from unlearn.training.trackers import check_trackers, tracked, tracking

FEW = ["-o", "max_steps=2", "-o", "batch_size=2"]


def test_what_is_not_there_is_said():
    assert check_trackers(None) == check_trackers("none") == ()
    with pytest.raises(OptionError, match="did you mean 'tensorboard'"):
        check_trackers("tensorbord")
    with pytest.raises(OptionError, match="pip install swanlab"):
        check_trackers("tensorboard,swanlab")


def test_what_was_set_before_is_set_again(monkeypatch, tmp_path: Path):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    with tracked((), "none", tmp_path):
        assert tracking().report_to == "none"
    with tracked(("tensorboard",), "mine", tmp_path):
        assert tracking().report_to == ["tensorboard"]
        assert tracking().run == "mine"
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path)
    assert tracking().report_to == "none"
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "theirs")
    with tracked(("tensorboard",), "mine", tmp_path):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == "theirs"
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "theirs"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of TensorBoard's own
def test_a_run_shows_in_tensorboard_and_is_the_same_run(tmp_path: Path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    data = tmp_path / "records.jsonl"
    rows = [f'{{"id": "r{i}", "text": "The number of {i} is {i * 7}."}}\n' for i in range(6)]
    data.write_text("".join(rows))
    words = ["finetune", "--model", str(base_path()), "--data", str(data), *FEW]
    for name, more in (("plain", []), ("told", ["--report-to", "tensorboard"])):
        assert run([*words, "--output", str(tmp_path / name), *more]) == 0
    plain, told = (Lineage.read(tmp_path / name) for name in ("plain", "told"))
    assert plain is not None
    assert told is not None
    assert told.digest == plain.digest
    assert told.options == plain.options
    assert not (tmp_path / "plain.runs").exists()

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (tmp_path / "told.runs").rglob("events.out.*")
    seen = EventAccumulator(str(events.parent))
    seen.Reload()
    assert len(seen.Scalars("train/loss")) == 2
    assert "tensorboard" in sys.modules
