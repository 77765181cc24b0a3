"""Input of odd types, depth and size: one line and exit code 2, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.apps.requests.ledger.due import due_time
from unlearn.canaries.pairs import Canaries
from unlearn.data.records import Records
from unlearn.errors import DataError, LedgerError, LineageError, ModelError
from unlearn.model.adapters import read_adapter_config
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage
from unlearn.provenance.suppression import check_suppressed

DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = "9" * 5_000

RECIPES = {
    "not UTF-8": b"kind: forget\nmethod: \xff\xfe",
    "deep": f"kind: forget\nmethod: {DEEP}".encode(),
    "deep in blocks": b"kind: forget\nmethod:\n  " + b"- " * 5_000 + b"x",
    "digits": f"kind: forget\nmethod: npo\noptions: {{seed: {DIGITS}}}".encode(),
    "a tag": b"kind: forget\nmethod: !!python/object:os.system x",
    "a null character": b"kind: forget\nmethod: \x00",
    "itself": b"&a [*a]",
    "a number alone": b"9" * 50,
    "no date": b"kind: forget\nmethod: npo\noptions: {x: 2001-99-99}",
}


def one_line(capfd: Any) -> str:
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("unlearn: ")
    assert err.count("\n") == 1
    assert len(err) < 12_000
    return str(err)


@pytest.mark.parametrize("what", RECIPES)
def test_a_recipe_of_odd_content_ends_in_a_line(what: str, tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / "own.yaml"
    file.write_bytes(RECIPES[what])
    words = ["--model", "m", "--data", "d", "--forget", "x", "--output", str(tmp_path / "o")]
    assert run(["forget", "--recipe", str(file), *words]) == 2
    one_line(capfd)
    if what == "not UTF-8":
        assert run(["recipes", "show", str(file)]) == 2
        assert "not UTF-8 text (byte 21)" in one_line(capfd)


@pytest.mark.parametrize("value", [DEEP, DIGITS, "{" * 9_000], ids=["deep", "digits", "braces"])
def test_an_option_of_odd_content_ends_in_a_line(value: str, tmp_path: Path, capfd: Any) -> None:
    words = ["--model", "m", "--data", "d", "--forget", "x", "--output", str(tmp_path / "o")]
    assert run(["forget", "-o", f"batch_size={value}", *words]) == 2
    one_line(capfd)


SPAN = {"field": "completion", "start": 0, "end": 3}
SECRETS: list[Any] = [5, True, "x", DEEP, "[1]", [1], [SPAN | {"field": {}}], [SPAN | {"field": 1}]]
SECRETS += [[SPAN | {"start": odd}] for odd in (None, "0", -1, 0.5, True, 1e400, 10**30, {}, [])]
SECRETS += [[SPAN | {"field": f"messages.{10**30}.content"}], [SPAN | {"kind": "\ud800"}]]


@pytest.mark.parametrize("number", range(len(SECRETS)))
def test_odd_secrets_are_refused(number: int, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    row = {"id": "a", "prompt": "p", "completion": "It is 555", "secrets": SECRETS[number]}
    file.write_text(json.dumps(row))
    with pytest.raises(DataError, match="line 1"):
        Records.load(str(file))


@pytest.mark.parametrize(
    "row",
    [
        f'{{"id": {DIGITS}, "text": "a"}}',
        f'{{"id": "a", "text": "a", "more": {DEEP}}}',
        f'{{"id": "a", "messages": {DEEP}}}',
        '{"id": ["a"], "text": "a"}',
    ],
)
def test_rows_of_odd_content_are_refused(row: str, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(row)
    with pytest.raises(DataError, match="line 1"):
        Records.load(str(file))


def test_canaries_of_odd_content_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "canaries.json"
    for content in (DEEP, DIGITS, "[]", "5", '{"schema": 1, "secret": 5, "pairs": []}'):
        file.write_text(content)
        with pytest.raises(DataError, match="no file of canaries"):
            Canaries.read(file)


@pytest.mark.parametrize("due", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_outside_the_calendar_is_no_due_date(due: str) -> None:
    with pytest.raises(LedgerError, match="give a date"):
        due_time(due)


@pytest.mark.parametrize("text", [DEEP, DIGITS, "[]", "\x00"], ids=["deep", "digits", "list", "0"])
def test_what_lies_beside_weights_is_refused_in_a_line(text: str, tmp_path: Path) -> None:
    for name in ("adapter_config.json", "lineage.json"):
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError):
        read_adapter_config(tmp_path)
    with pytest.raises(LineageError):
        Lineage.read(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("finetuned_with", {"training": ["x"]}),
        ("finetuned_with", {"lora": 1.5}),
        ("finetuned_with", {"stages": ["x"]}),
        ("cost", {"tokens": "many"}),
        ("budget", {"kept_loss": [1.0]}),
        ("budget", {"cost": 1}),
    ],
)
def test_a_lineage_of_odd_types_in_its_free_places_is_refused(
    place: str, value: Any, adapter: Path, tmp_path: Path
) -> None:
    content = json.loads((adapter / "lineage.json").read_text())
    (tmp_path / "lineage.json").write_text(json.dumps(content | {place: value | {"more": [1]}}))
    with pytest.raises(LineageError, match=place):
        Lineage.read(tmp_path)
    kept = {**content, place: {"more": [1]}}
    (tmp_path / "lineage.json").write_text(json.dumps(kept))
    assert Lineage.read(tmp_path) is not None


def test_lists_and_keys_that_are_no_text_end_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path))
    (tmp_path / "suppressed.jsonl").write_bytes(b'{"key_id": "\xff"}\n')
    with pytest.raises(DataError, match="not UTF-8 text"):
        check_suppressed(Records.from_rows([{"id": "a", "text": "b"}]))
    (tmp_path / "key").write_bytes(b"\xff" * 32)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(LineageError, match="does not hold a key"):
        Key.load()


def test_what_an_error_quotes_breaks_no_line() -> None:
    assert str(DataError("record 'a\nb\u2028': \r\n no")) == "record 'a b ': no"
    assert str(DataError("two  spaces")) == "two  spaces"
