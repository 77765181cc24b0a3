"""Files as somebody else may have written them: changed bytes, values of odd kinds."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["of_bytes", "of_json", "of_lines", "of_table"]

Mutation = Callable[[random.Random, bytes], bytes]

_TOKENS = (
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"null", b"true", b'""', b"{}", b"[]", b"[[]]", b","),
    *(b'"\\ud800"', "\u202e".encode(), b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\x1b[2J", b"\r\n"),
    *(b"9" * 5_000, b"[" * 2_000, b'{"a":' * 2_000, b"- " * 2_000, b"9223372036854775808"),
    *(b"0001-01-01T00:00:00+23:59", b"../../../etc/passwd", b"&a [*a]", b"!!python/name:os.system"),
)
_DEEP: Any = []
for _ in range(150):
    _DEEP = [_DEEP]
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, 1e-320),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "\ud800",
        "\u202eabc",
        "\x1b[31m",
        "a\nb",
        "\0",
        "9" * 50,
    ),
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "sha256:" + "0" * 64, "../x", "/"),
    *([], [None], [[1]], {}, {"": None}, {"a": {"b": []}}, _DEEP, ["x"] * 300),
)


def of_bytes(rng: random.Random, data: bytes) -> bytes:
    """Change a file of any kind in one to four places."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(content) + 1)
        to = min(len(content), at + rng.choice((1, 1, 4, 64, 4096)))
        kind = rng.randrange(6)
        if kind == 0 and content:
            content[min(at, len(content) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[at:to]
        elif kind == 2:
            content[at:at] = rng.choice(_TOKENS)
        elif kind == 3:
            content[at:to] = rng.choice(_TOKENS)
        elif kind == 4:
            content[at:at] = content[at:to]
        else:
            del content[at:]
    return bytes(content)


def of_json(rng: random.Random, data: bytes) -> bytes:
    """Put other values into one or two places of a file of JSON, or change its bytes."""
    if rng.random() < 0.3:
        return of_bytes(rng, data)
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        content = _changed(rng, content)
    return json.dumps(content, ensure_ascii=rng.random() < 0.9).encode(errors="surrogatepass")


def of_lines(rng: random.Random, data: bytes) -> bytes:
    """Do the same with one line of a file of JSON lines."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = of_json(rng, lines[at])
    return b"\n".join(lines) + b"\n"


def _changed(rng: random.Random, content: Any) -> Any:
    """Return a copy of JSON with another value, a key more or one less in one place."""
    whole = copy.deepcopy(content)
    places = [*_places(whole)]
    if not places:
        return rng.choice(_VALUES)
    inner, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, dict):
        inner[rng.choice(("", "id", "\u202e", "__class__"))] = rng.choice(_VALUES)
    elif kind == 2:
        inner[key] = copy.deepcopy(rng.choice(places)[0])
    else:
        inner[key] = copy.deepcopy(rng.choice(_VALUES))
    return whole


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (list or object, key) of every value within one."""
    keys: list[Any] = [*value] if isinstance(value, dict) else []
    for key in range(len(value)) if isinstance(value, list) else keys:
        yield value, key
        yield from _places(value[key])


def of_table(rng: random.Random, data: bytes) -> bytes:
    """Change a column of a file of Parquet, or the bytes of the file."""
    if rng.random() < 0.4:
        return of_bytes(rng, data)
    table = pq.read_table(io.BytesIO(data))
    name = rng.choice(table.column_names)
    at = table.column_names.index(name)
    rows = table.column(name).to_pylist()
    kind = rng.randrange(7)
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        table = table.slice(0, rng.randrange(len(table) + 1))
    elif kind == 2:
        table = table.take([rng.randrange(len(table)) for _ in rows])
    elif kind == 3:
        table = table.append_column(name, table.column(name))
    else:
        table = table.set_column(at, name, _column(rng, rows))
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _column(rng: random.Random, rows: list[Any]) -> Any:
    """Return a column of the same length with odd values in some or all places."""
    odd = rng.choice(
        (None, "", "x\u202e", -1, 2**62, float("nan"), float("inf"), [], [None], [1.5])
    )
    some = [odd if rng.random() < 0.3 else row for row in rows]
    for values in (some, [odd] * len(rows)):
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):
            continue
    return pa.nulls(len(rows))
