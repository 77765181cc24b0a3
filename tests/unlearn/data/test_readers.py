"""Readers split where the format says, whatever stands in a value: fuzzed against the writers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearn.data.readers import read_rows
from unlearn.data.records import Records
from unlearn.errors import DataError, SelectionError
from unlearn.provenance.keys import Key
from unlearn.provenance.suppression import check_suppressed, suppress

# What `str.splitlines` takes for the end of a line, and what else cuts text in two.
SEPARATORS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\x00\t,;\"'\\\ufeff"
WORDS = st.text(
    st.one_of(st.sampled_from(SEPARATORS), st.characters(exclude_categories=["Cs"])), max_size=12
)
ROWS = st.lists(st.fixed_dictionaries({"text": WORDS, "note": WORDS}), min_size=1, max_size=5)
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def rows_of(path: Path) -> list[Any]:
    return [row for _, row in read_rows(path)]


@FUZZ
@given(ROWS, st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_json_lines_are_what_json_wrote(
    tmp_path: Path, rows: list[dict[str, str]], escaped: bool, end: str
) -> None:
    path = tmp_path / "x.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=escaped) + end for row in rows)
    path.write_bytes(text.encode())
    assert rows_of(path) == rows


@FUZZ
@given(ROWS, st.booleans(), st.sampled_from([None, 0, 2]), st.booleans())
def test_json_is_what_json_wrote(
    tmp_path: Path, rows: list[dict[str, str]], escaped: bool, indent: int | None, inside: bool
) -> None:
    path = tmp_path / "x.json"
    whole = {"data": rows} if inside else rows
    path.write_bytes(json.dumps(whole, ensure_ascii=escaped, indent=indent).encode())
    assert rows_of(path) == rows


@FUZZ
@given(
    ROWS,
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\r\n", "\n"]),
    st.sampled_from([".csv", ".tsv"]),
)
def test_tables_are_what_csv_wrote(
    tmp_path: Path, rows: list[dict[str, str]], quoting: int, end: str, suffix: str
) -> None:
    path = tmp_path / f"x{suffix}"
    # `csv` itself quotes a lone carriage return only where it is part of the line's end
    quoting = csv.QUOTE_ALL if end == "\n" else quoting
    with path.open("w", newline="", encoding="utf-8") as file:
        delimiter = "\t" if suffix == ".tsv" else ","
        writer: Any = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)
        writer.writerow(["text", "note"])
        writer.writerows([row["text"], row["note"]] for row in rows)
    assert rows_of(path) == [{k: v for k, v in row.items() if v} for row in rows]


def test_a_long_value_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    long = "word " * 50_000
    path.write_text(f"prompt,completion\n{long},yes\na,b\n")
    assert [len(record.prompt or "") for record in Records.load(path)] == [len(long), 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", 'text\na\n"never closed\nb\n', "x.csv, line 3: not valid CSV"),
        ("x.csv", 'text\na\n"b"c\n', "x.csv, line 3: not valid CSV"),
        ("x.csv", "text,text\na,b\n", "line 1: two columns are called 'text'"),
        ("x.csv", 'text,note\n"a\nb",c\nd,e,f\n', "x.csv, line 4: more values than columns"),
        ("x.csv", b"text\na\ncaf\xe9\n", "x.csv, line 3: not UTF-8"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', "x.jsonl, line 2: not UTF-8"),
        ("x.jsonl", '{"text": "a"}\n\u2028\n', "x.jsonl, line 2: not valid JSON"),
        ("x.jsonl", '{"text": "a"}\n{"text": "a\x00b"}\n', "x.jsonl, line 2: not valid JSON"),
        ("x.jsonl", '{"text": "a"}\n' + "[" * 99_999, "x.jsonl, line 2: its values are nested"),
        ("x.jsonl", '{"text": "a"}\n{"n": ' + "9" * 5000 + "}", "line 2: a number in it has too"),
        ("x.json", '[\n{"text": "a"},\n{"text" "b"}]', "x.json, line 3: not valid JSON"),
        ("x.json", "\n\n[\n1,\n2 3]", "x.json, line 5: not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_place(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("separator", "\x85\u2028\u2029\f\x1c")
def test_selectors_and_the_suppression_list_end_lines_at_newlines(
    separator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "home"))
    odd = f"a{separator}b"
    records = Records.from_rows([{"id": odd, "text": odd}, {"id": "c", "text": "c"}])
    listed = tmp_path / "ids"
    listed.write_text(f"{odd}\nc\n", encoding="utf-8")
    assert records.select(f"@{listed}").ids == [odd, "c"]
    if not odd.isascii():  # as JSON has it, unescaped
        listed.write_text(json.dumps({"text": odd}, ensure_ascii=False) + "\n", encoding="utf-8")
        assert records.select(f"@{listed}").ids == [odd]
    key = Key(bytes(32))
    suppress(records.take([0]), f"asked{separator}for", key)
    check_suppressed(records.take([1]), key)
    with pytest.raises(DataError, match="line 1"):
        check_suppressed(records, key)


def test_a_selector_that_json_cannot_hold_is_named(tmp_path: Path) -> None:
    listed = tmp_path / "ids"
    listed.write_text('{"id": ' + "9" * 5000 + "}\n")
    with pytest.raises(SelectionError, match="line 1: not valid JSON"):
        Records.from_rows([{"text": "a"}]).select(f"@{listed}")
