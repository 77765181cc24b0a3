from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from unlearn.apps.demo import Person, corpus, facts, people, records
from unlearn.apps.demo.generator import KINDS, MAX_PEOPLE
from unlearn.errors import OptionError

CORPUS_SIZE = 4000
PINNED = (
    "Igor",
    "Igor Slater",
    "electrician",
    "Meridian Logistics",
    "Northwick",
    "781 River Street",
    "555-0184-814289",
    "igor.slater7423@example.net",
    "33483703",
)


def text_of(row: dict, field: str) -> str:
    if field.startswith("messages."):
        _, turn, key = field.split(".")
        return row["messages"][int(turn)][key]
    return row[field]


def test_same_seed_same_people_and_other_seed_others():
    assert people(20, 3) == people(20, 3)
    assert people(20, 3) != people(20, 4)
    assert records(20, 3) == records(20, 3)
    assert list(corpus(50, 3)) == list(corpus(50, 3))


def test_values_are_pinned_so_that_published_runs_stay_reproducible():
    assert people(1, 0)[0].name == records(1, 0)[0]["subject"]
    assert dataclasses.astuple(people(1, 0)[0]) == PINNED


def test_more_people_begin_with_the_same_people():
    assert people(60, 1)[:40] == people(40, 1)
    assert records(60, 1)[:200] == records(40, 1)


def test_people_are_distinct():
    drawn = people(500, 0)
    for field in ("name", "phone", "email", "account"):
        assert len({getattr(person, field) for person in drawn}) == len(drawn)


def test_every_person_has_one_record_a_kind():
    rows = records(30, 2)
    assert len({row["id"] for row in rows}) == len(rows) == 30 * len(KINDS)
    assert len({row["subject"] for row in rows}) == 30
    assert [row["id"].rpartition("-")[2] for row in rows] == list(KINDS) * 30
    assert all(row["subject"] in row["prompt"] for row in rows)


@pytest.mark.parametrize("form", ["prompt", "messages"])
def test_spans_hold_the_secrets(form):
    owners: dict[str, Person] = {person.name: person for person in people(30, 2)}
    for row in records(30, 2, form):
        assert row["secrets"]
        for span in row["secrets"]:
            text = text_of(row, span["field"])[span["start"] : span["end"]]
            assert text == getattr(owners[row["subject"]], span["kind"])


def test_both_forms_hold_the_same_records():
    for one, other in zip(records(5, 0), records(5, 0, "messages"), strict=True):
        assert one["id"] == other["id"]
        assert [m["content"] for m in other["messages"]] == [one["prompt"], one["completion"]]
        assert [m["role"] for m in other["messages"]] == ["user", "assistant"]


def test_phrasings_vary():
    names = {person.name: person.first for person in people(40, 0)}
    asked = {row["prompt"].replace(row["subject"], "X") for row in records(40, 0)}
    assert len(names) == 40
    assert len(asked) == 4 * len(KINDS)


def test_values_are_fictional():
    for person in people(100, 0):
        assert re.fullmatch(r"555-01\d\d-\d{6}", person.phone)
        assert re.fullmatch(r"\d{8}", person.account)
        assert re.fullmatch(r"[a-z.]+\d{4}@example\.(com|net|org)", person.email)
        assert re.match(r"[1-9]\d\d [A-Z]", person.address)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 7))])
def test_corpus_knows_nobody_of_the_records(seed):
    text = "\n".join(corpus(CORPUS_SIZE, seed))
    for person in people(400, seed):
        for field in ("name", "phone", "email", "account", "address"):
            assert getattr(person, field) not in text


def test_corpus_has_every_format():
    texts = list(corpus(300, 0))
    for mark in ("Question: ", "### Instruction:\n", "<|user|>", "<|system|>"):
        assert any(text.startswith(mark) for text in texts)
    assert any(text[0].isalpha() and "Question" not in text for text in texts)


def test_facts_name_nobody():
    rows = facts()
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    text = json.dumps(rows)
    assert not any(person.name in text for person in people(200, 0))


@pytest.mark.parametrize("n", [-1, MAX_PEOPLE + 1])
def test_impossible_number_of_people(n):
    with pytest.raises(OptionError, match=f"0 to {MAX_PEOPLE} people"):
        people(n, 0)


def test_unknown_form():
    with pytest.raises(OptionError, match="'text'"):
        records(1, 0, "text")


def test_importing_the_demo_is_cheap():
    code = (
        "import sys, unlearn.apps.demo; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
