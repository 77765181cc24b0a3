"""Digests of folders: every file that decides what a model computes enters."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn.provenance.digests import DECIDING, folder_digest, settings_digest, weights_digest


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
