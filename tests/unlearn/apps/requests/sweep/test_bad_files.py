"""One bad file neither stops nor holds up a sweep, and is never taken for clean."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from unlearn.apps.requests.sweep import data_files
from unlearn.apps.requests.sweep.bounded_reading import Limits, decoded, read_bytes
from unlearn.apps.requests.sweep.data_files import held, rewrite
from unlearn.apps.requests.sweep.matching import Matcher
from unlearn.apps.requests.sweep.sweep import _data, _SweepLog
from unlearn.data.records import Records
from unlearn.errors import DataError, OutputError
from unlearn.provenance.keys import Key

from ..conftest import Case

ANN = {"prompt": "Who is Ann?", "completion": "Ann, of Málaga"}
BOB = {"prompt": "Who is Bob?", "completion": "Bob, of Rome"}


@pytest.fixture
def matcher(key: Key) -> Matcher:
    """Recognises Ann's record."""
    records = Records.from_rows([ANN])
    return Matcher([key.digest(records[0])], key, records)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


BAD: dict[str, Callable[[Path], Any]] = {
    "deep.json": lambda p: p.write_text("[" * 100_000 + "]" * 100_000),
    "deep_enough.json": lambda p: p.write_text('{"a": ' * 400 + "1" + "}" * 400),
    "deep_object.json": lambda p: p.write_text('{"a": ' * 900 + "1" + "}" * 900),
    "deep.jsonl": lambda p: p.write_text(json.dumps(BOB) + "\n" + "[" * 900 + "]" * 900 + "\n"),
    "digits.json": lambda p: p.write_text("[" + "1" * 5000 + "]"),
    "digits.jsonl": lambda p: p.write_text('{"a": ' + "1" * 5000 + "}\n"),
    "pipe.jsonl": os.mkfifo,
    "pipe.txt": os.mkfifo,
    "pipe.parquet": os.mkfifo,
    "socket.txt": listening,
    "huge.txt": sparse,
    "huge.jsonl": sparse,
    "huge.parquet": sparse,
    "cut.parquet": lambda p: p.write_bytes(b"PAR1" + b"x" * 40 + b"PAR1"),
    "cut.arrow": lambda p: p.write_bytes(b"ARROW1\0\0" + b"x" * 40),
    "utf16_cut.txt": lambda p: p.write_bytes("\ufeffx".encode("utf-16-le") + b"x"),
    "latin.txt": lambda p: p.write_bytes("Bob, of Bogotá".encode("latin-1")),
    "zeros.txt": lambda p: p.write_bytes(b"text\0\0\0\0and more of it, with much between"),
    "zeros.csv": lambda p: p.write_bytes(b"a,b\n\0\0x,y\n"),
    "folder.txt": Path.mkdir,
    "folder.jsonl": Path.mkdir,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_unclear_and_the_next_is_read(
    name: str, matcher: Matcher, tmp_path: Path
) -> None:
    path = tmp_path / name
    BAD[name](path)
    log = _SweepLog()
    assert list(_data(path, "data file", "rewrite", matcher, log)) == []
    assert not log.clean
    (note,) = log.unreadable
    assert f"{path} could not be read: " in note


def test_whatever_reading_ends_in_is_one_file_s_affair(
    matcher: Matcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}")
    for error in (MemoryError(), OverflowError("date"), KeyError("x"), RecursionError()):

        def fail(*_: Any, error: BaseException = error) -> Any:
            raise error

        monkeypatch.setitem(data_files._SPLITS, ".jsonl", fail)
        log = _SweepLog()
        assert list(_data(path, "data file", "rewrite", matcher, log)) == []
        assert len(log.unreadable) == 1


def test_limits_of_size_time_and_depth(matcher: Matcher, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(BOB) + "\n" + json.dumps(BOB) + "\n")
    assert held(path, matcher, Limits()) == 0
    with pytest.raises(DataError, match="larger than the 10 bytes"):
        held(path, matcher, Limits(size=10))
    with pytest.raises(DataError, match="longer than 0 seconds"):
        held(path, matcher, Limits(seconds=0))
    path.write_text('{"a": {"b": {"c": 1}}}\n')
    with pytest.raises(DataError, match="deeper than 2"):
        held(path, matcher, Limits(depth=2))
    assert held(path, matcher, Limits(depth=3)) == 0


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    (tmp_path / "link").symlink_to("there")
    with pytest.raises(DataError, match="no regular file"):
        read_bytes(tmp_path / "link")


ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json"])
def test_text_is_read_in_the_encoding_that_it_is_in(
    name: str, encoding: str, matcher: Matcher, tmp_path: Path
) -> None:
    def text(*rows: dict[str, str]) -> str:
        if name == "a.csv":
            lines = [",".join(f'"{v}"' for v in row.values()) for row in rows]
            return "\n".join(["prompt,completion", *lines]) + "\n"
        if name == "a.json":
            return json.dumps(rows, indent=1, ensure_ascii=False)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    if encoding == "utf-32" and name == "a.csv":
        encoding = "utf-16"
    path = tmp_path / name
    path.write_bytes(text(BOB).encode(encoding))
    assert held(path, matcher) == 0
    path.write_bytes(text(ANN, BOB).encode(encoding))
    assert held(path, matcher) == 1
    if name in {"a.jsonl", "a.csv"}:
        assert rewrite(path, matcher) == (1, 1)
        left = path.read_bytes()
        assert decoded(left).text.lstrip("\ufeff") in {text(BOB), text(BOB).lstrip()}
        assert held(path, matcher) == 0


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_record_in_an_encoding_that_is_not_named_is_found(
    name: str, matcher: Matcher, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes("… Who is Ann? … Ann, of Málaga".encode("cp1252"))
    assert held(path, matcher) == 1
    if name != "a.txt":  # which is cleaned by hand
        with pytest.raises(DataError, match="not UTF-8 text, nor UTF-16"):
            rewrite(path, matcher)


def test_an_arrow_file_is_read_by_rows_whatever_packs_it(matcher: Matcher, tmp_path: Path) -> None:
    for rows, count in (([ANN, BOB, ANN], 1), ([BOB], 0)):
        table = pa.Table.from_pylist(rows)
        for new in (pa.ipc.new_file, pa.ipc.new_stream):
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            with new(tmp_path / "a.arrow", table.schema, options=options) as writer:
                writer.write_table(table)
            assert held(tmp_path / "a.arrow", matcher) == count


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved dataset with Ann's record."""
    path = tmp_path / "saved"
    datasets.Dataset.from_list([ANN, BOB]).save_to_disk(str(path))
    return path


def test_a_dataset_that_names_files_elsewhere_is_not_followed(
    saved: Path, matcher: Matcher, tmp_path: Path
) -> None:
    state = json.loads((saved / "state.json").read_text())
    (arrow,) = (entry["filename"] for entry in state["_data_files"])
    (saved / arrow).rename(tmp_path / arrow)
    state["_data_files"][0]["filename"] = f"../{arrow}"
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="leads out"):
        held(saved, matcher)
    state["_data_files"][0]["filename"] = arrow
    (saved / "state.json").write_text(json.dumps(state))
    (saved / arrow).symlink_to(tmp_path / arrow)
    with pytest.raises(DataError, match="no regular file"):
        held(saved, matcher)
    (saved / arrow).unlink()
    os.mkfifo(saved / arrow)
    with pytest.raises(DataError, match="no regular file"):
        held(saved, matcher)


def test_a_dataset_is_not_rewritten_over_other_files(saved: Path, matcher: Matcher) -> None:
    (saved / "notes.txt").write_text("mine")
    before = sorted(saved.iterdir())
    with pytest.raises(OutputError, match=r"notes\.txt"):
        rewrite(saved, matcher)
    assert sorted(saved.iterdir()) == before
    (saved / "notes.txt").unlink()
    assert rewrite(saved, matcher) == (1, 1)


def test_a_sweep_goes_on_past_names_and_files_that_cannot_be_read(case: Case) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    folder = case.work / "strange"
    folder.mkdir()
    odd = os.fsencode(folder) + b"/\xff\x1b[2J.jsonl"
    with open(odd, "wb") as file:  # noqa: PTH123 - no name that text could hold
        file.write(case.data.read_bytes())
    os.mkfifo(folder / "pipe.jsonl")
    os.mkfifo(folder / "lineage.json")
    os.mkfifo(folder / "config.json")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "model.gguf").write_bytes(b"GGUF")
    (folder / "a").mkdir()
    (folder / "a" / "lineage.json").write_text('{"schema": ' + "[" * 100_000)
    (folder / "a" / "config.json").write_text("[" * 100_000)
    (folder / "a" / "adapter.safetensors").write_bytes(b"x")
    told = case.json("sweep", name, folder, code=1)
    found = {Path(a["path"]).name: a["status"] for a in told["artifacts_list"]}
    assert found[os.fsdecode(odd.rsplit(b"/", 1)[1])] == "found"
    assert found["strange"] == found["a"] == "unclear"
    assert any("pipe.jsonl could not be read" in note for note in told["notes"])
    assert any("deep.json could not be read" in note for note in told["notes"])
    case.call("sweep", name, folder, code=1)
