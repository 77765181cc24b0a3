"""Records are found by each way of naming them, with what nearly repeats them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from unlearn.apps.requests.locate import locate
from unlearn.apps.requests.secrets_in_text import normal, secrets_elsewhere, value_pattern
from unlearn.data.near_duplicates import near_duplicates, shingles
from unlearn.data.records import Record, Records
from unlearn.errors import SelectionError

PHONE = "555-0184 814"
ROWS = [
    {"id": "a", "subject": "Ann", "prompt": "Ann's phone?", "completion": f"It is {PHONE}."},
    {"id": "b", "subject": "Ann", "prompt": "Ann's town?", "completion": "Ann lives in Málaga."},
    {"id": "c", "subject": "Bob", "prompt": "Bob's phone?", "completion": "Bob has 555 0000."},
    {
        "id": "d",
        "subject": "Cy",
        "prompt": "Flatmate's phone?",
        "completion": "5550184814, he says",
    },
    {"id": "e", "subject": "Cy", "prompt": "Ann's town?", "completion": "Ann lives in Málaga now."},
]


def with_extras() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [dict(row) for row in ROWS]
    rows[0]["secrets"] = [
        {"field": "completion", "start": 6, "end": 6 + len(PHONE), "kind": "phone"}
    ]
    for row, account in zip(rows, [7, 8, 7, 9, 10], strict=True):
        row |= {"account": account, "tags": ["x", str(account)], "open": account > 8}
    return rows


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in with_extras()))
    return str(path)


@pytest.mark.parametrize(
    ("selectors", "found"),
    [
        (["a,c"], ["a", "c"]),
        (["subject:Ann"], ["a", "b"]),
        (["rows:4"], ["e"]),
        (["text:  ann lives in\tMA\u0301LAGA. "], ["b"]),  # case, spaces, composed or not
        (["contains:málaga"], ["b", "e"]),
        (["contains:(555) 0184-814"], ["a", "d"]),
        (["field:account=7"], ["a", "c"]),
        (["field:tags=8"], ["b"]),
        (["field:open=true"], ["d", "e"]),
        (["field:subject=bob", "e"], ["c", "e"]),
    ],
)
def test_each_way_of_naming_records(source: str, selectors: list[str], found: list[str]) -> None:
    assert locate(source, selectors, near=None).records.ids == found


@pytest.mark.parametrize(
    ("selector", "problem"),
    [
        ("text:Ann lives", "text: names no record"),
        ("field:acount=7", "no column 'acount' .did you mean 'account'"),
        ("field:account", "write field:NAME=VALUE"),
        ("contains:...", "needs a letter"),
        ("zz", "has no record 'zz'"),
    ],
)
def test_what_finds_nothing_is_said(source: str, selector: str, problem: str) -> None:
    with pytest.raises(SelectionError, match=problem):
        locate(source, [selector])


def test_an_error_does_not_repeat_what_was_searched_for(source: str) -> None:
    with pytest.raises(SelectionError) as caught:
        locate(source, ["text:Ann's private words"])
    assert "private" not in str(caught.value)


def test_near_duplicates_are_shown_and_count_once_confirmed(source: str) -> None:
    found = locate(source, ["b"])
    assert [(n.id, n.like) for n in found.near] == [("e", "b")]
    assert 0.8 <= found.near[0].similarity < 1
    confirmed = locate(source, ["b"], include=["e"])
    assert confirmed.records.ids == ["b", "e"]
    assert not confirmed.near


def test_near_duplicates_are_looked_for_among_retained_records_too(
    source: str, tmp_path: Path
) -> None:
    other = tmp_path / "retain.jsonl"
    rows = [
        dict(ROWS[1], id="z", completion="Ann lives in Málaga!"),
        dict(ROWS[1], id="a", completion="Ann lives in Málaga?"),
        dict(ROWS[1], id="same"),
    ]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = locate(source, ["b"], retain=str(other))
    assert {n.id for n in found.near} == {"e", "z", "a#retain"}  # and not the record itself
    confirmed = locate(source, ["b"], retain=str(other), include=["z", "a#retain"])
    assert confirmed.records.ids == ["b", "z", "a#retain"]
    assert {n.id for n in confirmed.near} == {"e"}


def test_an_id_is_taken_to_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    ids = ["a,b", f"@{path}", "a", "doc:1"]
    rows = [{"id": name, "text": f"Ann lives in Málaga {i}."} for i, name in enumerate(ids)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ids:
        assert locate(str(path), ["a"], include=[name]).records.ids == sorted(
            {"a", name}, key=ids.index
        )
    assert locate(str(path), ["a,b"]).records.ids == ["a,b"]
    assert locate(str(path), ["doc:1"]).records.ids == ["doc:1"]
    with pytest.raises(SelectionError, match="has no record 'b'"):
        locate(str(path), ["a"], include=["b"])


@pytest.mark.parametrize(
    ("selector", "problem"),
    [
        ("Text:Ann's private words", "begins with no kind .did you mean 'text'"),
        ("phone:555-0184 private", "begins with no kind"),
        ("private person:x", "begins with no kind"),
        ("subject:Ann Private, private", "subject: names no record"),
        ("field:account=private", "field: names no record"),
    ],
)
def test_no_selector_s_words_are_repeated(source: str, selector: str, problem: str) -> None:
    with pytest.raises(SelectionError, match=problem) as caught:
        locate(source, [selector])
    assert "rivate" not in str(caught.value)
    assert "555" not in str(caught.value)


def test_a_secret_in_a_kept_record_is_warned_of(source: str, tmp_path: Path) -> None:
    found = locate(source, ["subject:Ann"])
    assert found.elsewhere == (("d", "completion", "phone", "a"),)
    other = tmp_path / "retain.jsonl"
    other.write_text(json.dumps({"id": "z", "text": "Call 555\u20110184\u2011814!"}) + "\n")
    assert [e.id for e in locate(source, ["a"], retain=str(other)).elsewhere] == ["z"]
    assert locate(source, ["a,d"]).elsewhere == ()


@pytest.mark.parametrize(
    ("value", "text", "there"),
    [
        ("5501", "room 5501, left", True),
        ("5501", "room 55017", False),
        ("5501", "room 15501", False),
        ("555 123", "on 3.5.2024 (555) 123 was called", True),
        ("+1 555 0184", "15550184", True),
        ("Ann@Example.net", "write to ann@example.NET.", True),
        ("ann@example.net", "joann@example.net", False),
        ("12 High Street", "at 12  high\nstreet", True),
        ("12 High Street", "at 112 High Street", False),
        ("stra\u00dfe 5", "STRASSE 5", True),
        ("AB-12.34", "ab-1234", True),
        ("AB-12.34", "ab 12 34", False),  # only what stands between digits is ignored
    ],
)
def test_how_a_value_may_be_written(value: str, text: str, there: bool) -> None:
    pattern = value_pattern(value)
    assert pattern is not None
    assert bool(pattern.search(normal(text))) is there


def test_values_without_a_letter_or_digit_are_no_values() -> None:
    assert value_pattern("—!") is None
    assert secrets_elsewhere([], Records.from_rows([{"text": "a"}])) == []


def test_similarity_is_the_jaccard_index_of_shingles() -> None:
    a, b = Record("a", text="abcdefgh"), Record("b", text="ABCDEFGX")
    # abcde bcdef cdefg defgh against abcde bcdef cdefg defgx: 3 of 5
    assert shingles(Record("x", text="abc")) == {"abc"}
    ((_, _, similarity),) = near_duplicates([a], [b], 0.5)
    assert math.isclose(similarity, 3 / 5)
    assert near_duplicates([a], [b], 0.61) == []
    assert near_duplicates([a], [a], 1.0) == [("a", "a", 1.0)]
