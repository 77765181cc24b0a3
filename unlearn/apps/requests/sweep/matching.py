"""Say whether a row or a text holds one of some records, however it is written."""

from __future__ import annotations

import contextlib
import html
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unlearn.apps.requests.secrets_in_text import contents_of
from unlearn.apps.requests.sweep.bounded_reading import LIMITS, Limits
from unlearn.data.loading import bare_content, record_of
from unlearn.data.record import Record
from unlearn.errors import DataError
from unlearn.provenance.keys import Key

__all__ = ["Matcher", "WatchedMatcher"]

_LEAST = 24
"""Characters of a record that tell it within a longer text: fewer may be there by chance."""


class Matcher:
    """Says whether a row holds one of some records.

    Args:
        digests: of the records, under `key`.
        key: of the digests.
        records: the records themselves, where they are still known.

    Attributes:
        limits: how much one file may take.
    """

    limits: Limits = LIMITS

    def __init__(self, digests: Iterable[str], key: Key, records: Iterable[Record] = ()) -> None:
        self._digests = set(digests)
        self._key = key
        said = (tuple(_plain(text) for _, text in contents_of(r)) for r in records)
        self._parts = [parts for parts in said if parts]

    def row(self, row: Any) -> bool:
        """Say whether a row is one of the records, or holds all the text of one."""
        # other programs leave out the columns that are used, or refused, here
        for form in (row, bare_content(row)) if isinstance(row, dict) else ():
            with contextlib.suppress(DataError):
                if self._key.digest(record_of(form, "row")) in self._digests:
                    return True
        texts = [_plain(text) for text in _strings(row)]
        if any(all(part in texts for part in parts) for parts in self._parts):
            return True
        long = [parts for parts in self._parts if sum(map(len, parts)) >= _LEAST]
        return bool(long) and _hold("\n".join(texts), long)

    def text(self, text: str) -> bool:
        """Say whether a text holds all the text of one of the records, plain or escaped."""
        return _hold(text, self._parts)


class WatchedMatcher(Matcher):
    """A matcher that gives a file up that nests too deep or takes too long.

    Args:
        matcher: what it asks.
        path: of the file.
        limits: of the file.
    """

    def __init__(self, matcher: Matcher, path: Path, limits: Limits) -> None:
        self._matcher, self._path, self.limits = matcher, path, limits
        self._end = time.monotonic() + limits.seconds

    def row(self, row: Any) -> bool:
        """Ask of a row, unless it is nested too deep or time is out."""
        self._on_time()
        if _deeper(row, self.limits.depth):
            raise DataError(f"{self._path}: nested deeper than {self.limits.depth}")
        return self._matcher.row(row)

    def text(self, text: str) -> bool:
        """Ask of a text, unless time is out."""
        self._on_time()
        return self._matcher.text(text)

    def _on_time(self) -> None:
        if time.monotonic() >= self._end:
            raise DataError(f"{self._path}: takes longer than {self.limits.seconds:.0f} seconds")


def _deeper(value: Any, depth: int) -> bool:
    """Say whether lists and objects lie deeper within each other than that."""
    layer = [value]
    for _ in range(depth + 1):
        holders = [part for part in layer if isinstance(part, dict | list | tuple)]
        layer = [p for each in holders for p in (each.values() if isinstance(each, dict) else each)]
        if not holders:
            return False
    return True


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _hold(text: str, records: Iterable[tuple[str, ...]]) -> bool:
    """Say whether a text holds all parts of one of some records."""
    forms = [_plain(form) for form in _unescaped(text)]
    return any(all(any(part in form for form in forms) for part in parts) for parts in records)


_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|.)",
    re.DOTALL,
)
_SHORT = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}


def _unescaped(text: str) -> Iterator[str]:
    r"""Yield a text as it is, and as what it stands for in JSON, YAML, HTML, or one in another.

    `Jos\u00e9`, `Jos&eacute;` and `Jos\xe9` are all José; a quote within quotes is `\"`, or
    doubled, as YAML and CSV have it.
    """
    for plain in dict.fromkeys((text, html.unescape(text))):
        yield plain
        once = _ESCAPE.sub(_meant, plain)
        if once != plain:
            yield once
            yield _ESCAPE.sub(_meant, once)  # JSON in a string of JSON
    for quote in ("''", '""'):
        if quote in text:
            yield text.replace(quote, quote[0])


def _meant(escape: re.Match[str]) -> str:
    """Return the character that a backslash and what follows it stand for."""
    body = escape.group()[1:]
    if len(body) == 1:
        return _SHORT.get(body, body)
    if len(body) == 11:  # two halves of one character
        high, low = int(body[1:5], 16), int(body[7:], 16)
        return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
    code = int(body[1:], 16)
    return chr(code) if code < 0x110000 else escape.group()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
