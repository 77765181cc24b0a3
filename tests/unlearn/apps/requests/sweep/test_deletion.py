"""A purge deletes what the sweep listed, by inode and digest, and never through a link."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.requests.sweep import deletion
from unlearn.apps.requests.sweep.deletion import delete_files, marks_of
from unlearn.apps.requests.sweep.findings import Artifact
from unlearn.apps.requests.sweep.matching import Matcher
from unlearn.apps.requests.sweep.purge import purge
from unlearn.errors import OutputError
from unlearn.provenance.keys import Key, home

from ..conftest import Case

ENTRY = f"{'0' * 64}.npz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files."""
    path = Path(os.path.realpath(tmp_path)) / "folder"
    path.mkdir()
    for name in ("a.bin", "b.bin"):
        (path / name).write_text(name)
    return path


def both(folder: Path) -> list[Path]:
    return [folder / "a.bin", folder / "b.bin"]


def test_a_file_that_is_not_the_one_listed_stays_and_so_do_the_others(folder: Path) -> None:
    marks = marks_of(both(folder))
    other = folder / "other"
    other.write_text("b.bin")
    other.replace(folder / "b.bin")  # the same content, and another file
    with pytest.raises(OutputError, match=r"b\.bin is not the file that was listed"):
        delete_files(folder, both(folder), marks)
    marks = marks_of(both(folder))
    (folder / "b.bin").write_text("B.BIN")  # the same file, and other content
    with pytest.raises(OutputError, match=r"b\.bin has changed"):
        delete_files(folder, both(folder), marks)
    with pytest.raises(OutputError, match="not the file that was listed"):
        delete_files(folder, both(folder), {})
    assert {path.name for path in folder.iterdir()} == {"a.bin", "b.bin"}
    delete_files(folder, both(folder), marks_of(both(folder)))
    assert not folder.exists()


def test_a_folder_that_becomes_a_link_is_not_deleted_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = marks_of(both(folder))
    away = folder.with_name("away")
    folder.rename(away)
    folder.symlink_to(away)  # the very same files, by another way
    with pytest.raises(OutputError, match="leads through a link"):
        delete_files(folder, both(folder), marks)
    folder.unlink()
    away.rename(folder)
    # and if that happens between the check of one file and its deletion
    check = deletion._is_listed

    def swapped(path: Path, marks: Any) -> bool:
        result = check(path, marks)
        if path.name == "b.bin":
            folder.rename(away)
            folder.symlink_to(away)
        return result

    monkeypatch.setattr(deletion, "_is_listed", swapped)
    with pytest.raises(OutputError, match="leads through a link"):
        delete_files(folder, both(folder), marks)
    assert {path.name for path in away.iterdir()} == {"a.bin", "b.bin"}


def test_a_data_file_is_rewritten_in_the_folder_that_was_checked(
    folder: Path, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn.apps.requests.sweep import purge as module

    others = folder.with_name("others")
    others.mkdir()
    for place in (folder, others):
        (place / "x.jsonl").write_text("{}\n")
    rewrite = module.rewrite

    def swapped(path: Path, matcher: Matcher) -> Any:
        folder.rename(folder.with_name("moved"))
        folder.symlink_to(others)
        path.with_name("made").write_text("here")
        return rewrite(path, matcher)

    monkeypatch.setattr(module, "rewrite", swapped)
    purge(
        Artifact("data file", folder / "x.jsonl", "", "found", "rewrite"),
        Matcher([], key),
        [folder],
    )
    assert (folder.with_name("moved") / "made").is_file()
    assert {path.name for path in others.iterdir()} == {"x.jsonl"}


@pytest.fixture
def cache(case: Case) -> Path:
    """The cache of scores, with an entry."""
    folder = home() / "cache" / "scores"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / ENTRY).write_bytes(b"numbers")
    return folder


def test_a_cache_that_is_a_link_is_left(case: Case, cache: Path) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    others = case.work / "others"
    shutil.rmtree(cache)
    others.mkdir()
    for file in (ENTRY, "thesis.txt"):
        (others / file).write_text("mine")
    for way in ("scores", "cache"):
        if way == "cache":
            cache.unlink()
            cache.parent.rmdir()
            (others / "scores").mkdir()
            (others / "scores" / ENTRY).write_text("mine")
            cache.parent.symlink_to(others)
        else:
            cache.symlink_to(others)
        told = case.json("sweep", name, "--purge", "--unclear", "--yes", code=None)
        (entry,) = (a for a in told["artifacts_list"] if a["kind"] == "score cache")
        assert (entry["status"], entry["action"]) == ("unclear", "by hand")
        assert {path.name for path in others.iterdir()} >= {ENTRY, "thesis.txt"}
    assert (others / "scores" / ENTRY).is_file()
    cache.parent.unlink()


def test_only_entries_of_the_cache_are_deleted_from_it(case: Case, cache: Path) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    (cache / "thesis.npz").write_text("mine")
    (cache / "notes.txt").write_text("mine")
    partial = cache / f".{ENTRY}.partial-1"
    partial.write_text("left by a kill")
    case.json("sweep", name, "--purge", "--unclear", "--yes", code=None)
    left = {path.name for path in cache.iterdir()}
    assert left == {"thesis.npz", "notes.txt"}
    shutil.rmtree(cache)


def test_what_is_moved_to_the_trash_is_still_found_there(case: Case) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    folder, trash = case.work / "copies", case.work.with_name(f"{case.work.name}-trash")
    shutil.copytree(case.adapter, folder / "second")
    (folder / "copy.jsonl").write_text(case.data.read_text())
    words = ("--purge", "--yes", "--trash", trash)
    told = case.json("sweep", name, folder, *words, code=1)
    assert not (folder / "second" / "adapter_model.safetensors").exists()
    status = {a["path"]: a["status"] for a in told["artifacts_list"]}
    assert status[str(folder / "second")] == "cleaned"
    assert status[str(folder / "copy.jsonl")] == "cleaned"
    kept = {
        path for path, what in status.items() if path.startswith(str(trash)) and what == "found"
    }
    assert any((Path(path) / "adapter_model.safetensors").is_file() for path in kept)
    assert any(Path(path).name == "copy.jsonl" for path in kept)
    weights = next(trash.rglob("adapter_model.safetensors"))
    assert weights.read_bytes() == (case.adapter / "adapter_model.safetensors").read_bytes()
    rows = [json.loads(line) for line in (folder / "copy.jsonl").read_text().splitlines()]
    assert len(rows) == len(case.data.read_text().splitlines())
    # emptied, and looked into again
    for path in trash.iterdir():
        shutil.rmtree(path)
    (trash / "keep").write_text("")
    told = case.json("sweep", name, folder, trash, code=None)
    status = {a["path"]: a["status"] for a in told["artifacts_list"]}
    assert {status[path] for path in kept} == {"cleaned"}


def test_a_trash_that_is_a_link_is_refused(case: Case) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    (case.work / "link").symlink_to(case.work / "data")
    told = case.call("sweep", name, "--purge", "--yes", "--trash", case.work / "link", code=2)
    assert "is a link" in told
