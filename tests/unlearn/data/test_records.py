"""Records: formats, ids, secrets and selection, and every complaint with its place."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.data import selectors
from unlearn.data.records import Record, Records, Secret
from unlearn.errors import DataError, SelectionError

ROWS = [
    {"id": "a", "subject": "ann", "prompt": "Who?", "completion": "Ann."},
    {"id": "b", "subject": "bob", "prompt": "Who else?", "completion": "Bob, café."},
    {"id": "c", "subject": "ann", "prompt": "Where?", "completion": "Here."},
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, rows: list[dict[str, Any]], separator: str) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def saved(path: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


FORMATS = {
    "jsonl": lambda d: jsonl(d / "x.jsonl", ROWS),
    "json lines": lambda d: jsonl(d / "x.json", ROWS),
    "array": lambda d: _text(d / "x.json", json.dumps(ROWS, indent=2)),
    "data": lambda d: _text(d / "x.json", json.dumps({"data": ROWS}, indent=2)),
    "data on one line": lambda d: _text(d / "x.json", json.dumps({"data": ROWS})),
    "csv": lambda d: table(d / "x.csv", ROWS, ","),
    "tsv": lambda d: table(d / "x.tsv", ROWS, "\t"),
    "parquet": lambda d: parquet(d / "x.parquet", ROWS),
    "saved": lambda d: saved(d / "x", ROWS),
}


def _text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_records(kind: str, tmp_path: Path) -> None:
    records = Records.load(FORMATS[kind](tmp_path))
    assert list(records) == list(Records.from_rows(ROWS))
    assert records.ids == ["a", "b", "c"]
    assert records.subjects == ["ann", "bob", "ann"]
    assert records[1].completion == "Bob, café."
    assert records[-1].id == "c"


def test_other_names_for_prompt_and_completion() -> None:
    records = Records.from_rows(
        [
            {"question": "Q?", "answer": "A."},
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            {"instruction": "Say hi.", "input": None, "response": "hi"},
        ]
    )
    assert [(r.prompt, r.completion) for r in records] == [
        ("Q?", "A."),
        ("Add.\n1 2", "3"),
        ("Say hi.", "hi"),
    ]


def test_a_content_id_depends_on_content_alone() -> None:
    one = Records.from_rows([{"prompt": "P", "completion": "café"}])
    two = Records.from_rows(
        [{"completion": unicodedata.normalize("NFD", "café"), "subject": "x", "prompt": "P"}]
    )
    assert one.ids == two.ids
    assert len(one.ids[0]) == 16
    assert Records.from_rows([{"text": "P"}]).ids != one.ids


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=6))
def test_ids_are_unique_whatever_the_content(texts: list[str]) -> None:
    records = Records.from_rows([{"text": text} for text in texts])
    assert len(set(records.ids)) == len(texts)
    distinct = {unicodedata.normalize("NFC", text) for text in texts}
    assert len(records.repeated) == len(texts) - len(distinct)


def test_repeated_rows_are_numbered_and_listed() -> None:
    records = Records.from_rows([{"text": "x"}, {"text": "y"}, {"text": "x"}, {"text": "x"}])
    first = records.ids[0]
    assert records.ids[2:] == [f"{first}#2", f"{first}#3"]
    assert records.repeated == (f"{first}#2", f"{first}#3")
    assert records.take([0, 3]).repeated == (f"{first}#3",)


def test_secrets_point_into_a_field() -> None:
    row = {
        "question": "Number?",
        "answer": "It is 5550134.",
        "secrets": [{"field": "answer", "start": 6, "end": 13, "kind": "phone"}],
    }
    (record,) = Records.from_rows([row])
    assert record.secrets == (Secret("completion", 6, 13, "phone"),)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "It is 7."}]
    place = {"field": "messages.1.content", "start": 6, "end": 7}
    (record,) = Records.from_rows([{"messages": turns, "secrets": [place]}])
    assert record.field("messages.1.content") == "It is 7."
    assert record.secrets[0].kind == "secret"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", "a record is an object, not str"),
        ({}, "no content"),
        ({"txt": "x"}, "found txt"),
        ({"text": "x", "prompt": "p", "completion": "c"}, "both text and prompt"),
        ({"text": "  "}, "text is empty"),
        ({"prompt": "p", "completion": ""}, "completion is empty"),
        ({"prompt": "p"}, "prompt without completion"),
        ({"answer": "p"}, "answer without prompt"),
        ({"text": 5}, "text must be text, not int"),
        ({"messages": []}, "must be a list of turns"),
        ({"messages": [{"role": "user", "content": "x"}]}, "without an assistant turn"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages.0 needs a role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content must be text"),
        ({"text": "abc", "secrets": [{"field": "text", "start": 2, "end": 9}]}, "not inside text"),
        ({"text": "abc", "secrets": [{"field": "text", "start": 2, "end": 2}]}, "not inside text"),
        ({"text": "abc", "secrets": [{"field": "body", "start": 0, "end": 1}]}, "no field 'body'"),
        ({"text": "abc", "secrets": [{"field": "text"}]}, "needs field, start and end"),
    ],
)
def test_a_bad_row_is_named(row: Any, message: str) -> None:
    good = {"text": "good"}
    with pytest.raises(DataError, match="row 1") as caught:
        Records.from_rows([good, row])
    assert message in str(caught.value)


def test_bad_files_are_named_with_their_line(tmp_path: Path) -> None:
    cases = {
        "broken.jsonl": ('{"text": "a"}\n{"text": \n', "broken.jsonl, line 2: not valid JSON"),
        "empty.jsonl": ("\n", "no records in it"),
        "mixed.jsonl": ('{"id": 1, "text": "a"}\n{"text": "b"}\n', "line 2: some rows have an id"),
        "twice.jsonl": (
            '{"id": 1, "text": "a"}\n\n{"id": 1, "text": "b"}\n',
            "line 3: the id '1' was given before",
        ),
        "array.json": ('[{"text": "a"},\n{"text" "b"}]', "array.json, line 2: not valid JSON"),
        "wide.csv": ("text\na,b\n", "wide.csv, line 2: more values than columns"),
        "notes.docx": ("x", "unknown kind of file '.docx'"),
        "latin.jsonl": (b'{"text": "caf\xe9"}', "not UTF-8"),
        "fake.parquet": ("x", "not a Parquet file"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError) as caught:
            Records.load(path)
        assert message in str(caught.value), name
    with pytest.raises(DataError, match="did you mean 'broken.jsonl'"):
        Records.load(tmp_path / "brokn.jsonl")
    with pytest.raises(DataError, match="not a dataset folder"):
        Records.load(tmp_path)


def test_selection(tmp_path: Path) -> None:
    records = Records.from_rows(ROWS)

    def ids(selector: str) -> list[str]:
        return records.select(selector).ids

    assert ids("c,a") == ["a", "c"]
    assert ids("a, a") == ["a"]
    assert ids("subject:ann") == ["a", "c"]
    assert ids("rows:1-2") == ["b", "c"]
    assert ids("rows:0,2") == ["a", "c"]
    listed = _text(tmp_path / "ids.txt", "c\n\nb\n")
    assert ids(f"@{listed}") == ["b", "c"]
    assert ids(f"@{jsonl(tmp_path / 'ids.jsonl', [{'id': 'b'}])}") == ["b"]
    content = jsonl(tmp_path / "rows.jsonl", [{"answer": "Here.", "question": "Where?"}])
    assert ids(f"@{content}") == ["c"]
    assert records.without(records.select("b")).ids == ["a", "c"]


def test_several_selectors_are_one_look_at_the_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of a thousand ids must not read a million of them a thousand times."""
    looks: list[list[str]] = []
    look = selectors._ids

    def counted(records: Records, names: list[str], where: str = "") -> list[int]:
        looks.append(list(names))
        return look(records, names, where)

    monkeypatch.setattr(selectors, "_ids", counted)
    records = Records.from_rows(ROWS)
    assert records.select(["c", "a,c", " rows:1-1"]).ids == ["a", "b", "c"]
    assert looks == [["c", "a", "c"]]
    with pytest.raises(SelectionError, match="no record 'aa'"):
        records.select(["a", "aa"])
    with pytest.raises(SelectionError, match="names no record"):
        records.select(["a", " "])


def test_content_matches_every_copy(tmp_path: Path) -> None:
    records = Records.from_rows([{"text": "x"}, {"text": "y"}, {"text": "x"}])
    chosen = records.select(f"@{jsonl(tmp_path / 'r.jsonl', [{'text': 'x'}])}")
    assert len(chosen) == 2


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("aa", "no record 'aa' (did you mean 'a'"),
        ("subject:anne", "'anne' (did you mean 'ann'"),
        ("rows:1-9", "has rows 0-2"),
        ("rows:2-1", "ascending"),
        ("rows:x", "write rows:180-199"),
        (",", "names no record"),
        ("@nowhere", "no such file"),
    ],
)
def test_bad_selections(selector: str, message: str) -> None:
    with pytest.raises(SelectionError) as caught:
        Records.from_rows(ROWS).select(selector)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no id in it"),
        ('{"id": "a"}\n{"text": "x"}\n', "some lines have an id"),
        ('{"text": "unknown"}\n', "line 1: no record of"),
        ('{"id": "a"}\n{"id"\n', "line 2: not valid JSON"),
    ],
)
def test_bad_selection_files(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SelectionError) as caught:
        Records.from_rows(ROWS).select(f"@{_text(tmp_path / 'ids', content)}")
    assert message in str(caught.value)


def test_canonical_is_content_without_id() -> None:
    a = Record("1", "x", prompt="P", completion="C")
    b = Record("2", "y", prompt="P", completion="C", secrets=(Secret("prompt", 0, 1),))
    assert a.canonical == b.canonical
    assert Record("1", text="P").canonical != Record("1", text="C").canonical


def test_tofu(assets: Path) -> None:
    records = Records.load(assets / "tofu" / "full.json")
    assert len(records) == 4000
    last = records.select("rows:3980-3999")
    assert len(last) == 20
    assert "Abilov" in str(last[-1].completion)
    forget01 = records.select(f"@{assets / 'tofu' / 'forget01.json'}")
    assert forget01.ids == records.take(range(3960, 4000)).ids


@pytest.mark.parametrize("row", [{"text": "a\ud83d"}, {"text": "a", "subject": "\udc00"}])
def test_half_a_character_is_an_error_that_names_the_line(row, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "whole \U0001f642"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"x\.jsonl, line 2: .* holds half a character"):
        Records.load(path)


@pytest.mark.parametrize("subject", ["", "  ", None, float("nan")])
def test_a_subject_that_is_empty_is_nobody(subject: object) -> None:
    rows = [{"text": "a", "subject": subject}, {"text": "b", "subject": "Ann"}]
    assert Records.from_rows(rows).subjects == [None, "Ann"]
