"""Answers to give instead."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from unlearn.data.records import Record, Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import DataError, OptionError
from unlearn.methods.alternates import REFUSALS, Source, alternates, answering, invented
from unlearn.model.state import ModelState, open_model


@pytest.fixture
def opened(
    tiny_model: Path, adapter: Path, data_file: Path
) -> tuple[ModelState, Records, list[Example]]:
    state = open_model(tiny_model, adapter)
    records = Records.load(data_file).take([0, 1, 2])
    return state, records, encode(records, state.tokenizer, Template("qa"), 128)


def made(
    opened: tuple[ModelState, Records, list[Example]], kind: str, path: str | None = None
) -> list[Example]:
    state, records, examples = opened

    def write(rows: Iterable[Record]) -> list[Example]:
        return encode(rows, state.tokenizer, Template("qa"), 128)

    return alternates(Source(kind, 2, path), records, examples, state, write, seed=1)


def test_refusals_follow_each_records_own_prompt(
    opened: tuple[ModelState, Records, list[Example]],
) -> None:
    found = made(opened, "refusals")
    _, records, _ = opened
    assert [e.id for e in found] == [r.id for r in records for _ in range(2)]
    assert all(e.target_text.strip() in REFUSALS for e in found)
    for i in range(3):
        assert found[2 * i].target_text != found[2 * i + 1].target_text
    assert [e.target_text for e in made(opened, "refusals")] == [e.target_text for e in found]


def test_invented_answers_fork_off_the_records(
    opened: tuple[ModelState, Records, list[Example]],
) -> None:
    state, _, examples = opened
    found = invented(state, examples, 4, seed=0)
    assert len(found) == 12
    for i, other in enumerate(found):
        own = examples[i // 4]
        start = int(np.flatnonzero(own.target)[0])
        assert np.array_equal(other.ids[:start], own.ids[:start])  # the same prompt
        assert not np.array_equal(other.ids, own.ids)
        assert len(other.ids) <= len(own.ids)
        assert other.target[start:].all()
        assert not other.target[:start].any()
    again = invented(state, examples, 4, seed=0)
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(found, again, strict=True))


def test_given_answers_are_matched_by_id(
    opened: tuple[ModelState, Records, list[Example]], tmp_path: Path
) -> None:
    _, records, _ = opened
    path = tmp_path / "other.jsonl"
    rows = [{"id": r.id, "prompt": r.prompt, "completion": f"no {r.id}"} for r in records]
    path.write_text("\n".join(json.dumps(row) for row in reversed(rows)))
    found = made(opened, "given", str(path))
    assert [e.target_text.strip() for e in found] == [f"no {r.id}" for r in records]
    with pytest.raises(OptionError, match="alternates=FILE"):
        made(opened, "given")
    path.write_text(json.dumps(rows[0]))
    with pytest.raises(DataError, match=r"no answer for the record 'r1'"):
        made(opened, "given", str(path))
    own = [{"id": r.id, "prompt": r.prompt, "completion": r.completion} for r in records]
    path.write_text("\n".join(json.dumps(row) for row in own))
    with pytest.raises(DataError, match="its own answer"):
        made(opened, "given", str(path))
    with pytest.raises(DataError, match="no such file"):
        made(opened, "given", str(tmp_path / "nowhere.jsonl"))


def test_the_last_turn_of_a_conversation_is_replaced() -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    found = answering(Record(id="x", messages=tuple(turns)), "no")
    assert [turn["content"] for turn in found.messages or ()] == ["a", "b", "c", "no"]
    assert turns[3]["content"] == "d"
    with pytest.raises(DataError, match="'y' is free text"):
        answering(Record(id="y", text="some text"), "no")
