"""Shards from the command line, end to end: train, delete, replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlearn.apps.cli import run
from unlearn.shards.files import Shards

SMALL = ["-o", "batch_size=2", "-o", "epochs=1", "-o", "r=4"]


@pytest.fixture(autouse=True)
def _key(lineage_key: str, monkeypatch: pytest.MonkeyPatch, _own_home: None) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)


def test_train_delete_and_replay(
    tiny_model: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", str(tiny_model), "--data", str(data_file)]
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert run(["finetune", *given, "--output", old, "--shards", "2", "--plan", *SMALL]) == 0
    assert "at worst" in capsys.readouterr().out
    assert not (tmp_path / "old").exists()
    assert run(["finetune", *given, "--output", old, "--shards", "2", *SMALL]) == 0
    forget = ["forget", *given, "--adapter", old, "--output", new, "--forget", "subject:person2"]
    assert run([*forget, "-o", "budget=1.0", "--off-now"]) == 0
    assert "off until they are trained again" in capsys.readouterr().out
    assert run([*forget, "-o", "budget=1.0"]) == 0
    assert "1 of 2 shards touched" in capsys.readouterr().out
    assert Shards.read(new).touched
    assert run(["replay", new, *given]) == 0
    content = json.loads((tmp_path / "new.replay" / "replay.json").read_text())
    assert (content["outcome"], content["adapter"]["method"]) == ("PASS", "shards")


@pytest.mark.parametrize("words", [["--jobs", "2"], ["--shard-by", "record"]])
def test_what_is_for_shards_takes_shards(
    tiny_model: Path, data_file: Path, tmp_path: Path, words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = ["--model", str(tiny_model), "--data", str(data_file), "--output", str(tmp_path / "a")]
    assert run(["finetune", *given, *words]) == 2
    assert "give --shards" in capsys.readouterr().err


def test_off_now_is_for_shards(
    tiny_model: Path, data_file: Path, adapter: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = ["--model", str(tiny_model), "--data", str(data_file), "--output", str(tmp_path / "a")]
    words = ["forget", *given, "--adapter", str(adapter), "--forget", "r0"]
    assert run([*words, "--off-now"]) == 2
    assert "folder of shards" in capsys.readouterr().err
    assert run([*words, "--method", "shards"]) == 2
    assert "is no folder of shards" in capsys.readouterr().err
