"""A ledger whose rows hold odd types is told in a line by every verb, and by the check."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.apps.requests.ledger import schema
from unlearn.apps.requests.ledger.ledger import Ledger

from ..conftest import add_many

LINE = "sha256:" + "a" * 64


@pytest.fixture
def ledger(tmp_path: Path, key: Any, lineage_key: str, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A request that was verified, on SQLite: rows are read alike from both databases."""
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    ledger = Ledger.open(str(tmp_path / "ledger.db"), key)
    (name,) = add_many(ledger, [{"line": LINE, "label": "T-1", "due": "2030-01-01T00:00:00+00:00"}])
    sealed = ledger.sealer.seal({"path": "/x", "why": "lies there"}, "artifact a1")
    artifact = {"kind": "data file", "name": "a1", "status": "found", "action": "delete"}
    verdict = {
        "outcome": "PASS",
        "tier": "A",
        "policy": {"name": "standard", "sha256": "0", "chosen": "before"},
        "adapter": LINE,
        "audit": "0",
        "file": None,
        "secrets": {"records": 1, "come_out": 0, "kept_records": 0},
        "sealed": ledger.sealer.seal(
            {"folder": "/a", "reasons": ["so"], "references": []}, f"verdict on request {name}"
        ),
    }
    with ledger.writing() as writer:
        deposit = ledger.escrow.put(name, {"records": []})
        writer.change(name, "located", escrow=vars(deposit), records=["d"], elsewhere=0)
        writer.change(name, "unlearned", near={"seen": 0, "included": 0}, price=None)
        writer.change(name, "verified", verdict=verdict)
        artifacts = [{**artifact, "sealed": sealed}]
        writer.change(name, "swept", swept={"links": 1}, artifacts=artifacts)
    return ledger


def test_odd_facts_end_in_a_line(ledger: Ledger, oddly: Any, tmp_path: Path, capfd: Any) -> None:
    table = schema.history
    with ledger.engine.begin() as connection:
        text = connection.execute(table.select().where(table.c.seq == 4)).one().content
    wrong = []
    copies = [*oddly(json.loads(text)), ("deep", "[" * 9_999), ("digits", "9" * 5_000)]
    copies += [(f"all {value!r}", value) for value in (None, 5, [], "x")]
    update = table.update().where(table.c.seq == 4)
    pairs = ((["show", "1"], ["check"]), (["list"], ["close", "1", "--yes"]))
    for i, (what, odd) in enumerate(copies):
        content = odd if what in {"deep", "digits"} else json.dumps(odd)
        with ledger.engine.begin() as connection:
            connection.execute(update.values(content=content))
        for words in pairs[i % 2]:  # the next odd value is for the other verbs
            try:
                code = run(["request", *words, "--ledger", str(tmp_path / "ledger.db")])
            except Exception as error:
                wrong.append(f"{words[0]}: {what}: {type(error).__name__}: {str(error)[:80]}")
                continue
            said = capfd.readouterr()
            if words[0] in {"check", "close"} and json.dumps(odd) != json.dumps(json.loads(text)):
                assert code in {1, 2}, (what, words, said)
            if code == 2:
                assert said.err.count("\n") == 1
    assert not wrong, "\n".join([str(len(wrong)), *wrong[:60]])


@pytest.mark.parametrize("column", ["seq", "hash", "mac", "ledger", "schema", "key_id"])
@pytest.mark.parametrize("value", [b"\xff", "x\u00e9", 7, 2.5, "9" * 5_000, b""])
def test_an_odd_head_ends_in_a_line(
    ledger: Ledger, column: str, value: Any, tmp_path: Path, capfd: Any
) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute(f"UPDATE head SET {column} = ?", [value])
    connection.close()
    for words in (["show", "1"], ["check"]):
        assert run(["request", *words, "--ledger", str(tmp_path / "ledger.db")]) in {1, 2}
        said = capfd.readouterr()
        assert said.err.count("\n") <= 1
        assert "Traceback" not in said.err


@pytest.mark.parametrize("column", ["hash", "mac", "content"])
@pytest.mark.parametrize("value", [b"\xff", "x\u00e9", 7, 2.5])
def test_an_odd_entry_ends_in_a_line(
    ledger: Ledger, column: str, value: Any, tmp_path: Path, capfd: Any
) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute(f"UPDATE history SET {column} = ? WHERE seq = 2", [value])
    connection.close()
    # the hash that the head names speaks for entries: their own codes matter to the check alone
    words = [["check"]] if column == "mac" else [["show", "1"], ["check"]]
    for each in words:
        assert run(["request", *each, "--ledger", str(tmp_path / "ledger.db")]) in {1, 2}
        said = capfd.readouterr()
        assert said.err.count("\n") <= 1
        assert "history entry 2" in " ".join((said.out + said.err).split()) or said.err
