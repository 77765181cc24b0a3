"""Lineage, key and suppression list."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from pathlib import Path

import pytest

from unlearn.data.records import Records
from unlearn.errors import DataError, LineageError, SuppressedError
from unlearn.provenance.keys import Key, home
from unlearn.provenance.lineage import FILE_NAME, Lineage, weights_digest
from unlearn.provenance.suppression import check_suppressed, suppress

ROWS = [{"id": "a", "prompt": "Who?", "completion": "Ann Secret."}, {"id": "b", "text": "Bob."}]


@pytest.fixture
def records() -> Records:
    return Records.from_rows(ROWS)


def test_the_key_is_made_once_and_for_its_owner_only() -> None:
    key = Key.load()
    path = home() / "key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Key.load().id == key.id
    assert path.read_text().strip() not in repr(key)
    path.chmod(0o640)
    with pytest.raises(LineageError, match="chmod 600"):
        Key.load()


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_KEY", "00" * 32)
    assert Key.load().id == Key(bytes(32)).id
    assert not (home() / "key").exists()
    for bad in ("xyz", "00"):
        monkeypatch.setenv("UNLEARN_KEY", bad)
        with pytest.raises(LineageError):
            Key.load()


def test_a_digest_is_the_hmac_of_the_content(records: Records) -> None:
    content = '{"completion": "Ann Secret.", "prompt": "Who?"}'
    expected = hmac.new(bytes(32), content.encode(), hashlib.sha256).hexdigest()
    assert Key(bytes(32)).digest(records[0]) == expected
    renamed = Records.from_rows([{**ROWS[0], "id": "z", "subject": "s"}])
    assert Key(bytes(32)).digest(renamed[0]) == expected
    assert Key(b"1" * 32).digest(records[0]) != expected


def test_suppressed_records_are_refused_by_content(records: Records) -> None:
    check_suppressed(records)
    path = suppress(records.take([0]), "asked for")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    suppress(records.take([0]), "asked for again")
    assert len(path.read_text().splitlines()) == 1
    text = path.read_text()
    assert "Ann" not in text
    assert "Who" not in text
    other_id = Records.from_rows([{**ROWS[0], "id": "other"}])
    with pytest.raises(SuppressedError, match=r"'other' \(line 1\)"):
        check_suppressed(other_id)
    check_suppressed(records.take([1]))


def test_a_disk_that_fills_up_leaves_no_half_entry(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suppress(records.take([0]), "asked for")
    before, real = path.read_bytes(), os.write
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"No space left.*suppressed"):
        patch.setattr(os, "write", lambda descriptor, lines: real(descriptor, lines[:7]))
        suppress(records, "asked for")
    assert path.read_bytes() == before
    suppress(records, "asked for")
    assert len(path.read_text().splitlines()) == 2


def test_a_list_made_with_another_key_is_not_silently_passed_over(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    suppress(records, "x")
    monkeypatch.setenv("UNLEARN_KEY", "11" * 32)
    with pytest.raises(LineageError, match="line 1 was made with the key"):
        check_suppressed(records)


def test_a_damaged_list_names_its_line(records: Records) -> None:
    path = suppress(records, "x")
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(DataError, match=r"suppressed.jsonl, line 3"):
        check_suppressed(records)


def test_a_damaged_lineage_is_named(adapter: Path, tmp_path: Path) -> None:
    assert Lineage.read(tmp_path) is None
    content = json.loads((adapter / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps(content | {"schema": 2}))
    with pytest.raises(LineageError, match="schema"):
        Lineage.read(tmp_path)
    (tmp_path / FILE_NAME).write_text("{")
    with pytest.raises(LineageError, match="not a lineage"):
        Lineage.read(tmp_path)


def test_what_an_adapter_was_made_from(adapter: Path, tiny_model: Path) -> None:
    line = Lineage.read(adapter)
    assert line is not None
    assert line.base.name == str(tiny_model)
    assert line.base.digest == weights_digest(tiny_model)
    assert line.digest == weights_digest(adapter)
    assert len(line.records.trained) == 12
    assert line.finetuned_with["lora"]["r"] == 4
    assert line.options["max_steps"] == 6
    assert line.cost["steps"] == 6
    assert line.cost["tokens"] > 0
    assert set(line.versions) >= {"unlearn", "torch", "peft"}


def test_the_weights_digest_sees_weights_and_nothing_else(adapter: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "renamed"
    shutil.copytree(adapter, copy)
    (copy / "notes.txt").write_text("x")
    assert weights_digest(copy) == weights_digest(adapter)
    tensors = load_file(copy / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] += 1e-3
    save_file(tensors, copy / "adapter_model.safetensors")
    assert weights_digest(copy) != weights_digest(adapter)
    with pytest.raises(LineageError, match="no .safetensors"):
        weights_digest(tmp_path)
