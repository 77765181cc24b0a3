"""JSON of others: what every program reads alike is returned, all else refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.strict_json import NotJsonError, parse_json, read_json_file

ODD = {
    "NaN": b"[NaN]",
    "infinity": b"[1e999]",
    "64 bits": b'{"a": [9223372036854775808]}',
    "digits": b"[" + b"9" * 5_000 + b"]",
    "twice": b'{"a": 1, "a": 2}',
    "half a pair": rb'{"a": "\ud800"}',
    "half a pair in a key": rb'{"\udc00": 1}',
    "deep": b"[" * 201 + b"]" * 201,
    "deeper": b"[" * 100_000 + b"]" * 100_000,
    "not UTF-8": b'"\xff"',
    "a mark": b"\xef\xbb\xbf[]",
    "nothing": b"",
}


@pytest.mark.parametrize("what", ODD)
def test_odd_json_is_refused_in_a_line(what: str) -> None:
    with pytest.raises(NotJsonError) as raised:
        parse_json(ODD[what])
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 250


def test_what_is_within_the_limits_is_read() -> None:
    text = r'{"a": [1e308, -9223372036854775807, "\ud83d\ude00"], "b": null}'
    assert parse_json(text) == {"a": [1e308, -(2**63) + 1, "😀"], "b": None}
    assert parse_json("[" * 200 + "]" * 200)


_VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(_VALUES)
def test_what_json_writes_is_read_back(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


def test_only_regular_files_of_a_size_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("[1]")
    (tmp_path / "link").symlink_to(file)
    assert read_json_file(tmp_path / "link") == [1]
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", tmp_path):
        with pytest.raises(NotJsonError, match="no regular file"):
            read_json_file(other)
    with pytest.raises(NotJsonError, match="larger than the 2 bytes"):
        read_json_file(file, size=2)
    with pytest.raises(FileNotFoundError):
        read_json_file(tmp_path / "none")
