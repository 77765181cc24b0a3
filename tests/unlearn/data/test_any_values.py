"""Whatever JSON stands in a field, a row gives a record or an error with its place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearn.data.loading import record_of
from unlearn.data.records import Records
from unlearn.data.selectors import find
from unlearn.data.templates import Template
from unlearn.errors import DataError

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
CALLS = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
SECRET = {"field": "text", "start": 0, "end": 2, "kind": "phone"}

VALID: list[dict[str, Any]] = [
    {"id": "a", "subject": "ann", "text": "Some text.", "secrets": [SECRET]},
    {"id": 1, "prompt": "P", "completion": "C", "system": "S", "history": [["a", "b"]]},
    {"instruction": "I", "input": "x", "output": "O", "tools": [{"name": "f"}]},
    {"question": "P", "answer": "C", "context": None, "images": [], "reasoning": ""},
    {"messages": [*TURNS, {"role": "assistant", "content": None, "tool_calls": CALLS}]},
    {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "S"}]},
            {"role": "user", "content": "Q", "name": "n"},
            {"role": "tool", "content": "", "tool_call_id": "c"},
            {"role": "assistant", "content": "A", "weight": 1, "reasoning_content": "r"},
        ]
    },
    {
        "conversations": [
            {"from": "human", "value": "Q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
            {"from": "gpt", "value": "A", "content": None},
        ],
        "secrets": [{"field": "conversations.2.value", "start": 0, "end": 1}],
    },
]

KEYS = sorted({key for row in VALID for key in row})
INNER = ["role", "content", "from", "value", "tool_calls", "type", "text", "field", "start", "end"]
WORDS = [
    "",
    " ",
    "[]",
    "{}",
    "null",
    "user",
    "assistant",
    "gpt",
    "tool",
    "text",
    "\ud83d",
    "[[",
    "5",
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=3),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(INNER), st.text(max_size=2)), inner, max_size=3),
    ),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all values inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    paths = []
    for key, one in inner:
        paths.append((*at, key))
        if isinstance(one, (dict, list)):
            paths += places(one, (*at, key))
    return paths


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A valid row, some of whose values are replaced or added."""
    row = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 2))):
        holder: Any = row
        *above, last = draw(st.sampled_from(places(row)))
        for key in above:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.booleans()):
            last = draw(st.sampled_from(INNER if above else KEYS))
        holder[last] = draw(JSON)
    return row


def use(row: Any) -> None:
    """Load a row and write its record, in every way that has no model."""
    records = made_or_refused(lambda: Records.from_rows([{"text": "before"}, row]), "row 1: ")
    if records is None:
        return
    (_, record) = records
    assert record.canonical
    assert len(record.parts) >= len(record.fields)
    assert find(records, "rows:1") == [1]
    made_or_refused(lambda: Template("roles").render(record), f"record {record.id!r}")


T = TypeVar("T")


def made_or_refused(make: Callable[[], T], where: str) -> T | None:
    """Return what is made, or None where an error that begins with its place refuses it."""
    try:
        return make()
    except DataError as error:
        told = str(error)
    assert told.startswith(where)
    return None


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(spoilt())
def test_a_wrong_value_anywhere_in_a_record_is_an_error_with_its_place(row: dict[str, Any]) -> None:
    use({k: v for k, v in row.items() if k != "id"})


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_any_values_in_known_fields(row: dict[str, Any]) -> None:
    use({k: v for k, v in row.items() if k != "id"})


@given(JSON)
def test_any_id(value: Any) -> None:
    rows = [{"id": value, "text": "x"}]
    records = made_or_refused(lambda: Records.from_rows(rows), "row 0: id ")
    assert records is None or records[0].id.strip()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "abc", "secrets": 5}, "secrets must be a list, not int"),
        ({"text": "abc", "secrets": "5"}, "secrets must be a list, not int"),
        ({"text": "abc", "secrets": {"field": "text"}}, "secrets must be a list, not dict"),
        ({"text": "abc", "secrets": [{**SECRET, "start": False}]}, "False to 2 are not inside"),
        ({"text": "abc", "secrets": [{**SECRET, "kind": ["x"]}]}, "kind must be text or a number"),
        ({"text": "abc", "id": ["x"]}, "id must be text or a number, not list"),
        ({"text": "abc", "subject": {"a": 1}}, "subject must be text or a number, not dict"),
        ({"conversations": [{"from": ["x"], "value": "a"}]}, "conversations.0 is from ['x']"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "messages.0 needs a role"),
        (
            {"messages": [*TURNS, {"role": "assistant", "content": None, "id": "c"}]},
            "messages.2.content must be text",
        ),
        ({"text": "", "messages": []}, "no content: text and messages are empty"),
        ({"text": "", "prompt": "p", "completion": ""}, "completion is empty"),
    ],
)
def test_the_error_names_the_line_and_what_is_wrong(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "x"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        Records.load(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("column", ["images", "secrets", "messages", "prompt", "tools"])
def test_deep_values_are_an_error(column: str) -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(DataError, match="row 0: .*(nested|must be|given|list)"):
        Records.from_rows([{"question": "Q", "answer": "A", column: deep}])


EMPTY = [None, "", " ", float("nan")]
LISTS = [[], "[]", "null", [None], {}]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"text": "a"}, ["messages", "conversations", "prompt", "completion", "answer"]),
        ({"messages": TURNS}, ["text", "prompt", "completion", "conversations", "instruction"]),
        ({"prompt": "P", "completion": "C"}, ["text", "messages", "question", "output"]),
    ],
)
def test_empty_cells_of_other_forms_are_passed_over(
    row: dict[str, Any], columns: list[str]
) -> None:
    plain = record_of(row, "row")
    for column in columns:
        lists = LISTS if column in {"messages", "conversations"} else [[]]
        for empty in [*EMPTY, *lists]:
            assert record_of({column: empty, **row}, "row") == plain
    for empty in EMPTY:
        assert record_of({**dict.fromkeys(columns, empty), **row}, "row") == plain
    with pytest.raises(DataError):
        record_of({columns[0]: "full", **row}, "row")


def test_a_table_with_a_column_of_each_form(tmp_path: Path) -> None:
    empty = {"text": None, "prompt": None, "completion": None, "messages": None}
    filled = [{"text": "a"}, {"prompt": "P", "completion": "C"}, {"messages": TURNS}]
    for nothing in ({}, {"text": "", "prompt": "", "completion": "", "messages": []}):
        rows = [{**empty, **nothing, **one} for one in filled]
        path = tmp_path / "x.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        assert [r.form for r in Records.load(path)] == ["text", "prompt", "messages"]
        path = tmp_path / "x.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert [r.form for r in Records.load(path)] == ["text", "prompt", "messages"]


@pytest.mark.parametrize("text", ["[]", "null", "{}"])
def test_text_is_text(text: str) -> None:
    row = {"instruction": "What is this in JSON?", "output": "Nothing."}
    assert record_of({**row, "input": text}, "row").prompt == f"What is this in JSON?\n{text}"
    (first, *_) = record_of({**row, "system": text}, "row").messages or ()
    assert first == {"role": "system", "content": text}
    assert record_of({"prompt": text, "completion": text}, "row").completion == text
    with pytest.raises(DataError, match="the column 'input' holds content"):
        record_of({"prompt": "P", "completion": "C", "input": text}, "row")


def test_a_sharegpt_turn_says_one_thing() -> None:
    def said(**turn: Any) -> Any:
        answer = {"from": "gpt", "value": "A"}
        return (record_of({"conversations": [turn, answer]}, "x, line 3").messages or ())[0]

    plain = {"role": "user", "content": "Q"}
    assert said(**{"from": "human", "value": "Q", "content": "Q"}) == plain
    assert said(**{"from": "human", "value": None, "content": "Q"}) == plain
    assert said(**{"from": "human", "value": "Q", "content": "", "role": None}) == plain
    with pytest.raises(DataError, match="x, line 3: conversations.0 holds both value and content"):
        said(**{"from": "human", "value": "Q", "content": "Other."})
    with pytest.raises(DataError, match="x, line 3: conversations.0 holds both value and tool_c"):
        said(**{"from": "function_call", "value": '{"name": "f"}', "tool_calls": CALLS})
