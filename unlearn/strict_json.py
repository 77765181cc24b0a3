"""The one parser of JSON that others may have written: what it returns, every program reads alike.

Files lie about, and may be edited. A key that stands twice, NaN, a number that no 64 bits hold,
half a surrogate pair or a thousand lists within each other would be read in another way elsewhere,
or stop what computes with them later. All of these are refused where the file is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unlearn.files import regular_bytes

__all__ = ["NotJsonError", "parse_json", "read_json_file"]

_DEPTH = 200
"""Lists and objects within each other; what is written here has fewer than ten."""
_LARGEST = 2**63 - 1
_SIZE = 1 << 30
"""Bytes of a file; an audit or a lineage of a million records has a tenth of it."""


class NotJsonError(ValueError):
    """Why a text is not JSON that every program reads alike, in one line."""


def parse_json(data: bytes | str) -> Any:
    """Parse JSON that every program reads in the same way.

    Args:
        data: text, as bytes in UTF-8.

    Returns:
        What it holds: numbers are finite and whole ones fit 64 bits.

    Raises:
        NotJsonError: if it is no JSON, names a key twice, or holds what is not to be trusted.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise NotJsonError("its values are nested too deeply") from None
    except ValueError as error:
        raise NotJsonError(" ".join(str(error).split())[:200]) from None
    _check(value)
    if "\\u" in text:
        _check_text(value)
    return value


def read_json_file(path: str | Path, *, size: int = _SIZE) -> Any:
    """Return what a file of JSON holds, see `parse_json`.

    Args:
        path: of a regular file, or a link to one.
        size: bytes that it may have.

    Returns:
        What it holds.

    Raises:
        NotJsonError: if it holds something else, is no regular file or is larger.
        OSError: if it is not there, or cannot be read.
    """
    try:
        content = regular_bytes(Path(path), size)
    except ValueError as error:
        raise NotJsonError(str(error)) from None
    return parse_json(content)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key appears twice")
    return content


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check(value: Any) -> None:
    """Refuse numbers out of range and what is nested too deeply, without recursion."""
    level: list[Any] = [value]
    for _ in range(_DEPTH):
        level = [part for whole in level for part in _checked(whole)]
        if not level:
            return
    raise NotJsonError("its values are nested too deeply")


def _checked(value: Any) -> Iterable[Any]:
    """Return the lists and objects within one, refusing numbers out of range."""
    parts: Iterable[Any] = (value,)
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, list):
        parts = value
    within = []
    for part in parts:
        if isinstance(part, (dict, list)):
            within.append(part)
        elif isinstance(part, float) and not math.isfinite(part):
            raise NotJsonError("a number is larger than any that is computed with")
        elif isinstance(part, int) and abs(part) > _LARGEST:
            raise NotJsonError("a whole number has more than 64 bits")
    return within


def _check_text(value: Any) -> None:
    """Refuse halves of surrogate pairs, which no UTF-8 holds."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise NotJsonError("a text holds half a surrogate pair") from None
