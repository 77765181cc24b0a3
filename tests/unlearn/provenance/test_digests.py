"""Digests of folders: every file that decides what a model computes enters."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from unlearn.errors import LineageError, ModelError
from unlearn.model.folders import check_model_folder
from unlearn.provenance.digests import (
    DECIDING,
    folder_digest,
    model_files,
    settings_digest,
    weights_digest,
)
from unlearn_eval.certificate.files import deciding_files


@pytest.mark.parametrize("pattern", DECIDING)
def test_every_deciding_file_enters_the_digest_of_a_folder(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    file = tmp_path / pattern.replace("*", "some")
    before = folder_digest(tmp_path), settings_digest(tmp_path)
    file.parent.mkdir(exist_ok=True)
    file.write_text("one")
    there = folder_digest(tmp_path), settings_digest(tmp_path)
    file.write_text("other")
    after = folder_digest(tmp_path), settings_digest(tmp_path)
    for digests in zip(before, there, after, strict=True):
        assert len(set(digests)) == 3


def test_weights_enter_and_names_of_folders_do_not(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
        (tmp_path / name / "lineage.json").write_text(name)  # says when it was made
    digests = [folder_digest(tmp_path / name) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert weights_digest(tmp_path / "a") == weights_digest(tmp_path / "b")


def sharded(folder: Path, content: bytes, *, index: bool = True, place: str = "parts") -> Path:
    """Make a model whose only shard lies in a folder below, where the index says."""
    (folder / place).mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / place / "one.safetensors").write_bytes(content)
    if index:
        named = {"weight_map": {"a": f"{place}/one.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(named))
    return folder


def test_weights_that_an_index_names_elsewhere_enter_every_digest(tmp_path: Path) -> None:
    one, other = sharded(tmp_path / "one", b"1"), sharded(tmp_path / "other", b"2")
    same = sharded(tmp_path / "same", b"1")
    for folder in (one, other, same):  # lies beside them, and is not loaded
        (folder / "left.safetensors").write_bytes(b"same")
    assert weights_digest(one) == weights_digest(same) != weights_digest(other)
    assert folder_digest(one) == folder_digest(same) != folder_digest(other)
    assert deciding_files(one)["parts/one.safetensors"] == hashlib.sha256(b"1").hexdigest()
    assert set(model_files(one)) == {
        "config.json",
        "left.safetensors",
        "model.safetensors.index.json",
        "parts/one.safetensors",
    }


def test_the_same_files_with_others_chosen_are_other_weights(tmp_path: Path) -> None:
    digests = set()
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        for shard in "ab":
            (folder / f"{shard}.safetensors").write_bytes(shard.encode())
        named = {"weight_map": {"weight": f"{name}.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(named))
        digests.add(weights_digest(folder))
    (tmp_path / "a" / "model.safetensors.index.json").unlink()
    digests.add(weights_digest(tmp_path / "a"))  # nothing chosen: all of them
    assert len(digests) == 3
    for name in "ab":
        (tmp_path / "a" / "config.json").write_text(
            json.dumps({"transformers_weights": f"{name}.safetensors"})
        )
        digests.add(weights_digest(tmp_path / "a"))
    assert len(digests) == 3  # chosen otherwise, and the same


def test_an_index_that_names_all_of_a_folder_changes_no_digest(tmp_path: Path) -> None:
    for shard in "ab":
        (tmp_path / f"{shard}.safetensors").write_bytes(shard.encode())
    before = weights_digest(tmp_path)
    named = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(named))
    assert weights_digest(tmp_path) == before


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (
            '{"weight_map": {"a": "gone.safetensors"}}',
            "'gone.safetensors', which is not there",
        ),
        (f'{{"weight_map": {{"a": "{"9" * 5000}.safetensors"}}}}', "9', which is not there"),
        ('{"weight_map": {"a": "../out.safetensors"}}', "leads out of the folder"),
        ('{"weight_map": {"a": "/out.safetensors"}}', "leads out of the folder"),
        ('{"weight_map": {"a": "code.bin"}}', "is no .safetensors file"),
        ('{"weight_map": {"a": 1}}', "is not an index"),
        ('{"weight_map": []}', "is not an index"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("1" * 5000, "cannot be read"),
    ],
)
def test_an_index_that_cannot_be_followed_is_an_error(
    index: str, words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "out.safetensors").write_bytes(b"")
    (folder / "code.bin").write_bytes(b"")
    (folder / "a.safetensors").write_bytes(b"")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(LineageError, match=re.escape(words)):
        weights_digest(folder)
    with pytest.raises(ModelError, match=re.escape(words)):
        check_model_folder(folder)
    (folder / "model.safetensors").write_bytes(b"")  # which is loaded before any index
    weights_digest(folder)
    check_model_folder(folder)


def test_more_layers_than_tensors_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    check_model_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    for deep in ({"num_hidden_layers": 2**62}, {"text_config": {"n_layer": 10_000}}):
        (folder / "config.json").write_text(json.dumps(config | deep))
        with pytest.raises(ModelError, match=r"names \d+ layers, and the weights have \d+ tensors"):
            check_model_folder(folder)


def test_a_model_whose_weights_lie_below_is_a_model(tmp_path: Path) -> None:
    check_model_folder(sharded(tmp_path / "one", b"1"))
    with pytest.raises(ModelError, match=r"no \.safetensors weights"):
        check_model_folder(sharded(tmp_path / "none", b"1", index=False))


def test_a_tokenizer_of_a_version_enters(tmp_path: Path) -> None:
    """Where `tokenizer_config.json` names some, one of them is read in the place of the usual."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    before = settings_digest(tmp_path)
    (tmp_path / "tokenizer.5.0.0.json").write_text("{}")
    assert settings_digest(tmp_path) != before


def test_a_file_that_keeps_size_and_time_is_hashed_again(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    before, seen = weights_digest(tmp_path), file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert weights_digest(tmp_path) != before


def test_weights_that_are_a_pipe_or_lead_nowhere_have_no_digest(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    os.mkfifo(tmp_path / "b.safetensors")
    with pytest.raises(LineageError, match="no regular file"):
        weights_digest(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    (tmp_path / "b.safetensors").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        weights_digest(tmp_path)
