"""Every field of a conversation is kept, through every kind of file, or refused by its place."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearn.data.loading import record_of
from unlearn.data.record import Record, content_id
from unlearn.data.records import Records, Secret
from unlearn.data.templates import Template
from unlearn.errors import DataError
from unlearn.provenance.keys import Key

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "dial",
            "description": "Call somebody.",
            "parameters": {"type": "object", "properties": {"to": {"type": "string"}}},
        },
    }
]


def call(arguments: dict[str, Any], name: str = "dial") -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def row(number: str, **more: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": "Call Ada."},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "She asked for it.",
                "tool_calls": [call({"to": number}), call({"wait": 2, "often": [1, 2]}, "pause")],
            },
            {"role": "tool", "content": "", "name": "dial", "tool_call_id": "c1"},
            {"role": "assistant", "content": "Done."},
        ],
        "tools": TOOLS,
        **more,
    }


ROWS = [row("555-0101", id="a"), row("555-0999", id="b")]


def _jsonl(folder: Path) -> Path:
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in ROWS))
    return path


def _json(folder: Path) -> Path:
    path = folder / "x.json"
    path.write_text(json.dumps(ROWS, indent=1))
    return path


def _texts(folder: Path) -> Path:
    """Write JSON lines whose messages and tools are JSON text."""
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps(_cells(one)) + "\n" for one in ROWS))
    return path


def _cells(one: dict[str, Any]) -> dict[str, str]:
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in one.items()}


def _csv(folder: Path) -> Path:
    path = folder / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(map(_cells, ROWS))
    return path


def _parquet(folder: Path) -> Path:
    path = folder / "x.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def _saved(folder: Path) -> Path:
    datasets.Dataset(pa.Table.from_pylist(ROWS)).save_to_disk(str(folder / "x"))
    return folder / "x"


@pytest.mark.parametrize("write", [_jsonl, _json, _texts, _csv, _parquet, _saved])
def test_all_fields_come_through_every_kind_of_file(write: Any, tmp_path: Path) -> None:
    records = Records.load(write(tmp_path))
    for record, one in zip(records, ROWS, strict=True):
        assert record.messages == tuple(one["messages"])
        assert record.tools == tuple(one["tools"])
    assert records.repeated == ()
    assert [content_id(r) for r in records] == [content_id(r) for r in Records.from_rows(ROWS)]
    assert records[1].messages == records.take([1])[0].messages


def test_the_order_of_keys_is_kept_and_makes_no_other_content() -> None:
    one, other = (Records.from_rows([{"messages": _calls(a)}]) for a in (FORTH, BACK))
    assert one.ids == other.ids
    for records, arguments in ((one, FORTH), (other, BACK)):
        assert records[0].messages is not None
        there = records[0].messages[1]["tool_calls"][0]["function"]["arguments"]
        assert list(there) == list(arguments)


FORTH, BACK = {"to": "x", "at": 1}, {"at": 1, "to": "x"}


def test_null_in_arguments_is_content() -> None:
    one, other = (
        Records.from_rows([{"messages": _calls({"to": "x", **more})}])[0]
        for more in ({}, {"limit": None})
    )
    assert one.canonical != other.canonical


def _calls(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "tool_calls": [call(arguments)]},
    ]


def test_no_content_is_written_in_one_way() -> None:
    calls = {"role": "assistant", "tool_calls": [call({"to": "x"})]}
    ids = {
        Records.from_rows([{"messages": [{"role": "user", "content": "Q"}, turn]}]).ids[0]
        for turn in (calls, {**calls, "content": None}, {**calls, "name": None, "weight": 1})
    }
    assert len(ids) == 1


@pytest.mark.parametrize("key", ["tool_calls", "reasoning_content", "name", "weight"])
def test_the_content_id_covers_every_field(key: str) -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    value = {"tool_calls": [call({"to": "x"})], "weight": 0}.get(key, "x")
    more = [turns[0], {**turns[1], key: value}]
    records = Records.from_rows([{"messages": turns}, {"messages": more}])
    assert records.repeated == ()
    assert len(set(records.ids)) == 2
    both = Records.from_rows([{"messages": turns}, {"messages": turns, "tools": TOOLS}])
    assert both.repeated == ()


def test_ids_and_digests_of_plain_rows_stay() -> None:
    rows: list[dict[str, Any]] = [
        {"text": "Ada lives at 7 Elm Road.\u2028"},
        {"prompt": "Wer?", "completion": 'Zoe\u0301 "1".'},
        {"instruction": "Add.", "input": "1 2", "output": "3", "system": "", "history": []},
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"content": "Hi.\n", "role": "user", "name": None, "tool_calls": []},
                {"role": "assistant", "content": "caf\u00e9"},
            ],
            "tools": "[]",
        },
    ]
    records = Records.from_rows(rows)
    assert records.ids == [
        "80d6e8fee7dc4d9d",
        "a37a5430fbbd3fb2",
        "bd2df635840526ac",
        "cb5bc40b2c2c06e8",
    ]
    key = Key(bytes(range(32)))
    assert [key.digest(record)[:16] for record in records] == [
        "ef8db35f1dc0c143",
        "62aae568db228c5b",
        "a859e526f60bfc9d",
        "47ea64d1de53df54",
    ]


@pytest.mark.parametrize("template", ["roles", "qa", "{prompt} -> {completion}"])
@pytest.mark.parametrize(
    "more", [{"tool_calls": [call({"to": "x"})]}, {"reasoning_content": "hm"}, {"weight": 0}]
)
def test_other_templates_refuse_what_only_a_chat_template_writes(
    template: str, more: dict[str, Any]
) -> None:
    turns = ({"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", **more})
    with pytest.raises(DataError, match=f"record 'r': .* messages.1.{next(iter(more))}"):
        Template(template).render(Record("r", messages=turns))
    with pytest.raises(DataError, match="record 'r': .* write tools"):
        Template(template).render(Record("r", messages=tuple(TURNS), tools=tuple(TOOLS)))


def said(record: Record) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in record.messages or ()]


def test_columns_around_a_prompt_become_turns() -> None:
    (record,) = Records.from_rows(
        [
            {
                "instruction": "And Bo?",
                "input": "Bo is new.",
                "output": "Bo is at 555-0144.",
                "system": "You know all.",
                "history": [["Where is Ada?", "At 555-0101."], ["Cy?", "Out."]],
                "tools": json.dumps(TOOLS),
                "secrets": [
                    {"field": "output", "start": 9, "end": 17},
                    {"field": "history.0.1", "start": 3, "end": 11},
                    {"field": "system", "start": 0, "end": 3},
                ],
            }
        ]
    )
    assert said(record) == [
        ("system", "You know all."),
        ("user", "Where is Ada?"),
        ("assistant", "At 555-0101."),
        ("user", "Cy?"),
        ("assistant", "Out."),
        ("user", "And Bo?\nBo is new."),
        ("assistant", "Bo is at 555-0144."),
    ]
    assert record.tools == tuple(TOOLS)
    assert [s.field for s in record.secrets] == [
        "messages.6.content",
        "messages.2.content",
        "messages.0.content",
    ]


def test_sharegpt_rows_become_messages() -> None:
    (record,) = Records.from_rows(
        [
            {
                "conversations": [
                    {"from": "human", "value": "Call Ada."},
                    {"from": "function_call", "value": '{"name": "dial", "arguments": {"to": 1}}'},
                    {"from": "observation", "value": "ok"},
                    {"from": "gpt", "value": "Done: 555-0101.", "weight": 1},
                ],
                "system": "Be brief.",
                "tools": json.dumps([TOOLS[0]["function"]]),
                "secrets": [{"field": "conversations.3.value", "start": 6, "end": 14}],
            }
        ]
    )
    assert said(record) == [
        ("system", "Be brief."),
        ("user", "Call Ada."),
        ("assistant", None),
        ("tool", "ok"),
        ("assistant", "Done: 555-0101."),
    ]
    assert record.messages is not None
    assert record.messages[2]["tool_calls"] == [
        {"type": "function", "function": {"name": "dial", "arguments": {"to": 1}}}
    ]
    assert record.tools == (TOOLS[0]["function"],)
    assert record.secrets == (Secret("messages.4.content", 6, 14),)


def test_a_content_of_texts_is_joined() -> None:
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there.", "image": None}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Hello."}]
    assert said(Records.from_rows([{"messages": turns}])[0])[0] == ("user", "Hi there.")


QA = {"prompt": "P", "completion": "C"}
TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
PICTURE = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "What?"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**QA, "context": "Ada is 30."}, "the column 'context' holds content"),
        ({**QA, "documents": [{"text": "x"}]}, "the column 'documents'"),
        ({**QA, "images": ["x.png"]}, "the column 'images'"),
        ({**QA, "videos": ["x"]}, "the column 'videos'"),
        ({**QA, "audios": ["x"]}, "the column 'audios'"),
        ({**QA, "functions": [{}, {"name": "f"}]}, "the column 'functions'"),
        ({**QA, "input": "x"}, "the column 'input'"),
        ({"messages": TURNS, "input": "x"}, "the column 'input'"),
        ({"messages": TURNS, "chat_template_kwargs": {"a": 1}}, "'chat_template_kwargs'"),
        ({**QA, "question": "Other?"}, "both prompt and question"),
        ({**QA, "answer": "Other."}, "both completion and answer"),
        ({"text": "t", "answer": "a lot"}, "answer beside text"),
        ({"text": "t", "system": "s"}, "system beside text"),
        ({"messages": TURNS, "prompt": "Other?"}, "prompt beside messages"),
        ({"messages": TURNS, "conversations": TURNS[::-1]}, "both messages and conversations"),
        ({"messages": TURNS, "history": [["a", "b"]]}, "both messages and history"),
        (
            {"messages": [{"role": "system", "content": "a"}, *TURNS], "system": "b"},
            "system beside messages",
        ),
        ({**QA, "history": [["a"]]}, "history.0 must be [question, answer]"),
        ({**QA, "history": [["a", ""]]}, "history.0.1 is empty"),
        ({**QA, "history": "x"}, "history is text, and not valid JSON"),
        ({**QA, "tools": "dial"}, "tools is text, and not valid JSON"),
        ({**QA, "tools": [1]}, "tools.0 must be a JSON schema"),
        ({**QA, "tools": [{"name": "\ud83d"}]}, "tools.0 holds half a character"),
        ({"messages": [{"role": "user", "content": PICTURE}, TURNS[1]]}, "0.content.0 is of type"),
        ({"messages": [TURNS[0], {**TURNS[1], "tool_calls": "dial"}]}, "tool_calls is text"),
        ({"messages": [TURNS[0], {**TURNS[1], "tool_calls": ["a"]}]}, "must be a list of calls"),
        ({"messages": [TURNS[0], {**TURNS[1], "when": {1, 2}}]}, "cannot be written as JSON"),
        ({"messages": [TURNS[0], {"role": "user", "content": "", "name": "a"}]}, "is empty"),
        ({"conversations": [{"from": "cat", "value": "x"}]}, "conversations.0 is from 'cat'"),
        ({"conversations": [{"from": "function_call", "value": "f"}]}, "not valid JSON"),
        ({"conversations": [{"from": "gpt", "value": ""}]}, "conversations.0.content is empty"),
    ],
)
def test_what_would_be_left_out_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        record_of(row, "x.jsonl, line 7")
    assert str(caught.value).startswith("x.jsonl, line 7: ")
    assert message in str(caught.value)


EMPTY = [None, "", " ", [], {}, [None], {"a": None}, float("nan")]
LISTS = ["context", "images", "history", "tools"]


@pytest.mark.parametrize(
    ("empty", "column"),
    [
        *((empty, column) for empty in EMPTY for column in [*LISTS, "input", "system"]),
        *((empty, column) for empty in ("[]", "{}", "null") for column in LISTS),
    ],
)
def test_empty_columns_and_notes_are_passed_over(empty: Any, column: str) -> None:
    plain = record_of(QA, "row")
    assert record_of({**QA, column: empty, "category": "x", "score": 3}, "row") == plain


def test_the_error_of_a_secret_names_the_fields_there_are() -> None:
    place = {"field": "messages.1.contents", "start": 0, "end": 1}
    with pytest.raises(DataError) as caught:
        Records.from_rows([{"messages": TURNS, "secrets": [place]}])
    assert "no field 'messages.1.contents' (did you mean 'messages.1.content'" in str(caught.value)
    assert "it has messages.0.content, messages.1.content" in str(caught.value)
