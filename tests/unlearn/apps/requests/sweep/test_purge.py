"""What a sweep found is cleaned when it is gone or was read and is clean, and not before."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.requests import certificate as certificates
from unlearn.apps.requests.sweep.noting import _gone
from unlearn.provenance.digests import weights_digest
from unlearn.provenance.looks import Look, LookLog, counted

from ..conftest import Case
from ..test_requests import certifying


def statuses(case: Case, name: str) -> dict[str, str]:
    """Status by file name, of data files and adapters."""
    shown: list[dict[str, Any]] = case.json("show", name)["artifacts_list"]
    kinds = {"data file", "text file", "adapter"}
    return {Path(a["path"]).name: a["status"] for a in shown if a["kind"] in kinds}


@pytest.fixture
def swept(case: Case) -> tuple[str, Path]:
    """A request after a run and a sweep of a folder with a second copy of the data."""
    name = case.located("r0")
    case.json("run", *case.fast)
    folder = case.work / "copies"
    folder.mkdir()
    (folder / "copy.jsonl").write_text(case.data.read_text())
    case.json("sweep", name, folder, code=1)
    assert statuses(case, name)["copy.jsonl"] == "found"
    return name, folder


def test_a_file_that_cannot_be_read_any_more_is_not_cleaned(
    case: Case, swept: tuple[str, Path]
) -> None:
    name, folder = swept
    copy = folder / "copy.jsonl"
    whole = copy.read_text()
    copy.write_text(whole + "{broken\n")
    case.json("sweep", name, folder, code=1)
    assert statuses(case, name)["copy.jsonl"] == "found"
    assert case.ledger.get(name).facts["swept"]["unreadable"] == 1
    case.json("sweep", name, folder, "--purge", "--yes", code=1)
    assert statuses(case, name)["copy.jsonl"] == "found"
    # read again, and clean
    copy.write_text("".join(whole.splitlines(keepends=True)[1:]))
    case.json("sweep", name, folder, code=1)  # the adapter before is there
    assert statuses(case, name)["copy.jsonl"] == "cleaned"
    # what was cleaned and cannot be read now is for people to look at
    copy.write_text("{broken\n" * 2)
    case.json("sweep", name, folder, code=1)  # the adapter before is there
    assert statuses(case, name)["copy.jsonl"] == "unclear"


def test_a_file_that_has_become_a_link_is_not_cleaned(
    case: Case, swept: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, folder = swept
    copy, elsewhere = folder / "copy.jsonl", case.work / "elsewhere.jsonl"
    copy.rename(elsewhere)
    copy.symlink_to(elsewhere)
    case.json("sweep", name, folder, "--purge", "--yes", code=1)
    assert statuses(case, name)["copy.jsonl"] == "found"
    copy.unlink()
    copy.symlink_to(case.work / "nowhere")
    case.json("sweep", name, folder, code=1)
    assert statuses(case, name)["copy.jsonl"] == "found"
    (folder / "notes.dat").write_bytes(b"\0")
    case.decides("PASS")
    case.json("verify", "--generate", "0")
    case.json("sweep", name, folder, code=1)
    monkeypatch.setattr(certificates, "certify", certifying)
    case.json("certificate", name, "--output", case.work / "certificate.json")
    told = json.loads((case.work / "certificate.json").read_text())["not_claimed"][-1]
    assert "what the sweep passed over: 1 symbolic link(s)" in told
    assert "file(s) of other kinds" in told
    copy.unlink()
    case.json("sweep", name, folder, code=1)  # the adapter before is there
    assert statuses(case, name)["copy.jsonl"] == "cleaned"


def test_a_folder_that_cannot_be_entered_is_not_cleaned(
    case: Case, swept: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    name, folder = swept
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    case.json("sweep", name, folder, code=1)
    assert statuses(case, name)["copy.jsonl"] == "found"

    def closed(self: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", closed)
    assert not _gone(folder / "copy.jsonl")


def test_weights_do_not_become_clean_with_the_lineage_beside_them(case: Case) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    other = case.work / "other"
    case.adapter.rename(other)  # not the one that the ledger knows by its place
    weights = other / "adapter_model.safetensors"
    case.json("sweep", name, other, code=1)
    assert statuses(case, name)["other"] == "found"
    kept = weights.read_bytes()
    (other / "lineage.json").unlink()
    weights.write_bytes(kept[:-4] + bytes(4))
    case.json("sweep", name, other, code=1)
    assert statuses(case, name)["other"] == "found"
    weights.unlink()
    weights.symlink_to(case.work / "nowhere")
    case.json("sweep", name, other, code=1)
    assert statuses(case, name)["other"] == "found"
    weights.unlink()
    case.json("sweep", name, other, code=None)
    assert statuses(case, name)["other"] == "cleaned"


@pytest.mark.slow
def test_an_adapter_before_stays_until_its_request_is_verified(case: Case) -> None:
    one = case.located("r0")
    (first,) = case.json("run", *case.fast)["runs"]
    words = ("--purge", "--yes")
    told = case.json("sweep", one, *words, code=1)
    assert any(f"request {one} was carried out" in note for note in told["notes"])
    assert (case.adapter / "adapter_model.safetensors").is_file()
    # whose it is does not matter: the adapter after the first run is the one before the second
    case.decides("PASS")
    case.json("verify", "--generate", "0")
    two = case.located("r4")
    case.json("run", *case.fast)
    case.json("verify", one, "--generate", "0")
    told = case.json("sweep", one, *words, code=1)
    (note,) = (note for note in told["notes"] if "was not purged" in note)
    assert first["folder"] in note
    assert f"request {two} was carried out" in note
    assert not (case.adapter / "adapter_model.safetensors").exists()
    case.json("verify", two, "--generate", "0")
    case.json("sweep", two, *words)
    assert not (Path(first["folder"]) / "adapter_model.safetensors").exists()


def test_a_purge_before_its_time_does_nothing_at_all(case: Case) -> None:
    name = case.located("r0")
    before = case.ledger.history(name)
    told = case.call("sweep", name, "--purge", "--yes", code=2)
    assert f"request {name} is located: run it before purging" in told
    assert case.ledger.history(name) == before


def test_nothing_is_purged_while_another_process_is_at_work(case: Case) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    ledger = case.ledger
    with ledger.hold(ledger.get(name).line):
        told = case.call("sweep", name, "--purge", "--yes", code=2)
    assert re.search(r"another process \(pid \d+ on .*\) is at work on the adapter", told)
    assert (case.adapter / "adapter_model.safetensors").is_file()


def missed(case: Case, name: str, file: str) -> str:
    shown: list[dict[str, Any]] = case.json("show", name)["artifacts_list"]
    (entry,) = (a for a in shown if Path(a["path"]).name == file)
    return str(entry.get("missed", ""))


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_a_folder_that_is_not_there_today_is_not_cleaned(
    case: Case, swept: tuple[str, Path]
) -> None:
    name, folder = swept
    away = case.work.with_name(f"{case.work.name}-away")
    folder.rename(away)
    assert "no such folder" in case.call("sweep", name, folder, code=2)
    for words in ([], ["--purge", "--yes"], [case.work / "adapters"]):
        case.json("sweep", name, *words, code=1)
        assert statuses(case, name)["copy.jsonl"] == "found"
        assert "not looked into this time" in missed(case, name, "copy.jsonl")
    assert "copy.jsonl is found as before: not looked" in case.call("sweep", name, code=1)
    # a disk that is not mounted leaves an empty folder
    folder.mkdir()
    for root in (folder, case.work):
        case.json("sweep", name, root, code=1)
        assert statuses(case, name)["copy.jsonl"] == "found"
        assert f"{folder} is empty; mount" in missed(case, name, "copy.jsonl")
    # there again, and looked into
    folder.rmdir()
    away.rename(folder)
    case.json("sweep", name, folder, code=1)
    assert (statuses(case, name)["copy.jsonl"], missed(case, name, "copy.jsonl")) == ("found", "")
    (folder / "copy.jsonl").unlink()
    folder.rmdir()
    case.json("sweep", name, case.work / "adapters", code=1)
    assert statuses(case, name)["copy.jsonl"] == "found"
    case.json("sweep", name, case.work, code=1)
    assert (statuses(case, name)["copy.jsonl"], missed(case, name, "copy.jsonl")) == ("cleaned", "")


def test_what_a_purge_deleted_is_cleaned_wherever_it_lay(
    case: Case, swept: tuple[str, Path]
) -> None:
    name, folder = swept
    (case.adapter / "README.md").unlink()  # so that the folder goes with its files
    weights, log = weights_digest(case.adapter), LookLog(case.ledger.key)
    log.register(Look("of another request", "sha256:a", "", (weights,), "", eligible=(weights,)))
    case.decides("PASS")
    case.json("verify", "--generate", "0")
    case.json("sweep", name, folder, "--purge", "--yes")
    assert not case.adapter.exists()
    later = counted(log.register(Look("of another request", "sha256:a", "", (), "")))
    assert (later.unused_references, later.purged_references) == ((), 1)
    assert statuses(case, name)["first"] == "cleaned"
    case.json("sweep", name)
    assert statuses(case, name)["first"] == "cleaned"


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 1000000\n".format(
    "0" * 64
)


def test_weights_that_cannot_be_read_are_unclear_and_the_sweep_goes_on(case: Case) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    folder = case.work / "models"
    whole = (case.model / "model.safetensors").read_bytes()
    for kind, content in (("pointer", POINTER.encode()), ("half", whole[: len(whole) // 2])):
        shutil.copytree(case.model, folder / kind)
        (folder / kind / "model.safetensors").write_bytes(content)
    (folder / "link").mkdir()
    (folder / "link" / "a.safetensors").write_bytes(whole)
    (folder / "link" / "b.safetensors").symlink_to(case.work / "nowhere")
    told = case.json("sweep", name, folder, code=1)
    found = {Path(a["path"]).name: (a["status"], a["why"]) for a in told["artifacts_list"]}
    assert found["first"][0] == "found"
    for kind in ("pointer", "half", "link"):
        assert found[kind] == ("unclear", "its weights cannot be read")
        assert any(f"{folder / kind} could not be read: " in note for note in told["notes"])
    assert told["swept"]["unreadable"] == 3
