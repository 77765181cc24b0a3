"""Every file below a folder that is swept is accounted for: clean, found or unclear."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import datasets
import pytest

from ..conftest import Case

EXPORTS = (
    "model.gguf",
    "MODEL.GGUF",
    "optimizer.pt",
    "rng_state_0.pth",
    "training_args.bin",
    "model.onnx",
    "model.onnx_data",
    "weights.npz",
    "weights.pkl",
    "last.ckpt",
    "model.h5",
)


def files_below(folder: Path) -> int:
    """Count everything that is no folder, links to folders among it."""
    return sum(
        len(files) + sum((Path(place) / name).is_symlink() for name in below)
        for place, below, files in os.walk(folder)
    )


@pytest.fixture
def ran(case: Case) -> tuple[str, Path]:
    """A request that was run, and where the adapter that it made lies."""
    name = case.located("r0")
    (made,) = case.json("run", *case.fast)["runs"]
    return name, Path(made["folder"])


def test_exports_beside_clean_weights_are_unclear(case: Case, ran: tuple[str, Path]) -> None:
    name, made = ran
    root = case.work / "models"
    shutil.copytree(made, root / "current")
    shutil.copytree(case.model, root / "base")
    for folder in (root / "current", root / "base"):
        for export in EXPORTS:
            (folder / export).write_bytes(export.encode())
    told = case.json("sweep", name, root, code=1)
    status = {a["path"]: a["status"] for a in told["artifacts_list"]}
    for folder in (root / "current", root / "base"):
        assert str(folder) not in status
        for export in EXPORTS:
            assert status[str(folder / export)] == "unclear", export
    # those that are purged go alone
    case.json("sweep", name, root, "--purge", "--unclear", "--yes", code=None)
    left = {path.name for path in (root / "current").iterdir()}
    assert left == {path.name for path in made.iterdir()}


def test_a_record_in_a_file_beside_clean_weights_is_found(
    case: Case, ran: tuple[str, Path]
) -> None:
    name, made = ran
    folder = case.work / "models" / "current"
    shutil.copytree(made, folder)
    row = case.data.read_text().splitlines()[0]
    for beside in ("tokenizer_backup.json", "old_config.json", "chat_template.jinja"):
        (folder / beside).write_text(row)
    told = case.json("sweep", name, folder, code=1)
    found = {Path(a["path"]).name for a in told["artifacts_list"] if a["status"] == "found"}
    assert {"tokenizer_backup.json", "old_config.json", "chat_template.jinja"} <= found


def test_the_counts_are_those_of_the_files(case: Case, ran: tuple[str, Path]) -> None:
    name, made = ran
    root = case.work / "mixed"
    shutil.copytree(made, root / "current")
    shutil.copytree(case.adapter, root / "before")
    for export in EXPORTS:
        (root / "current" / export).write_bytes(b"x")
    rows = [json.loads(line) for line in case.data.read_text().splitlines()]
    datasets.Dataset.from_list(rows).save_to_disk(str(root / "saved"))
    parts = {"a": datasets.Dataset.from_list(rows), "b": datasets.Dataset.from_list(rows[1:])}
    datasets.DatasetDict(parts).save_to_disk(str(root / "parts"))
    (root / "saved" / "model.gguf").write_bytes(b"GGUF")
    (root / "parts" / "a" / "copy.jsonl").write_text(case.data.read_text())
    (root / "clean.txt").write_text("nothing")
    (root / "broken.json").write_text("{")
    (root / "no_ending").write_bytes(b"\0")
    os.mkfifo(root / "pipe.jsonl")
    (root / "link.txt").symlink_to("clean.txt")
    (root / "folder_link").symlink_to("current")
    (root / "nowhere").symlink_to("gone")
    alone = {"before": case.json("sweep", name, code=None)["swept"]["files"]}
    told = case.json("sweep", name, root, code=1)
    more = Counter(told["swept"]["files"])
    more.subtract(alone["before"])
    assert set(more) == {"clean", "found", "unclear"}
    assert sum(more.values()) == files_below(root)
    assert min(more.values()) > 0
    status = {a["path"]: a["status"] for a in told["artifacts_list"]}
    assert status[str(root / "saved")] == "found"
    assert status[str(root / "parts")] == "found"
    assert str(root / "parts" / "a") not in status
    # what lies in the folder of a dataset is no part of it
    assert status[str(root / "parts" / "a" / "copy.jsonl")] == "found"
    assert status[str(root / "saved" / "model.gguf")] == "unclear"


def test_shards_that_an_index_names_belong_to_their_model(
    case: Case, ran: tuple[str, Path]
) -> None:
    name, _ = ran
    root = case.work / "models"
    folder = root / "sharded"
    shutil.copytree(case.model, folder)
    (folder / "parts").mkdir()
    (folder / "model.safetensors").rename(folder / "parts" / "one.safetensors")
    index = {"weight_map": {"x": "parts/one.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    told = case.json("sweep", name, root, code=1)
    status = {a["path"]: a["status"] for a in told["artifacts_list"]}
    assert status[str(folder)] == "unclear"
    assert str(folder / "parts") not in status
    case.json("sweep", name, root, "--purge", "--unclear", "--yes", code=None)
    assert not (folder / "parts" / "one.safetensors").exists()
