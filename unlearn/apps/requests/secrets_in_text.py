"""Find a person's secret values in other records, however they are written there."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from unlearn.data.record import Record

__all__ = ["Elsewhere", "contents_of", "secrets_elsewhere", "texts_of", "value_pattern"]

# What people put between the digits of a number: spaces, dashes, dots, slashes, brackets.
_SEPARATORS = r"[\s\-\u2010-\u2015\u2212./()]*"
_STRIPPED = re.compile(r"^\W+|\W+$")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[\s\-\u2010-\u2015\u2212./()]+(?=\d)")


class Elsewhere(NamedTuple):
    """A record that holds a secret of another.

    Attributes:
        id: of the record that is kept.
        field: where in it.
        kind: of the secret.
        of: id of the record whose secret it is.
    """

    id: str
    field: str
    kind: str
    of: str


def normal(text: str) -> str:
    """Return text in NFC, case folded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def value_pattern(value: str) -> re.Pattern[str] | None:
    """Return a pattern that finds a value in `normal` text.

    Case does not matter, nor how digits are grouped, nor what kind of space stands between words.
    It must stand by itself: 5501 is not in 55017.

    Args:
        value: the secret.

    Returns:
        The pattern; None for a value without a letter or digit.
    """
    core = _STRIPPED.sub("", normal(value))
    core = _BETWEEN_DIGITS.sub("", core)
    if not core:
        return None
    parts = []
    for i, character in enumerate(core):
        if character.isspace():
            if not core[i - 1].isspace():
                parts.append(r"\s+")
            continue
        if character.isdigit() and core[i - 1 : i].isdigit():
            parts.append(_SEPARATORS)
        parts.append(re.escape(character))
    return re.compile(rf"(?<!\w){''.join(parts)}(?!\w)")


def texts_of(record: Record) -> Iterator[tuple[str, str]]:
    """Yield (field, text) of all that a record holds, calls and tools included."""
    yield from contents_of(record)
    for i, turn in enumerate(record.messages or ()):
        for name in turn:
            if name not in {"role", "content"}:
                yield from _within(f"messages.{i}.{name}", turn[name])
    for i, tool in enumerate(record.tools or ()):
        yield from _within(f"tools.{i}", tool)


def _within(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield (field, text) of the texts and numbers in a value of JSON."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _within(f"{field}.{name}", inner)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _within(f"{field}.{i}", inner)
    elif value is not None and not isinstance(value, bool):
        yield field, str(value)


def contents_of(record: Record) -> Iterator[tuple[str, str]]:
    """Yield (field, text) of what is said in a record: its fields, or the contents of its turns."""
    for name in ("text", "prompt", "completion"):
        text = getattr(record, name)
        if text is not None:
            yield name, text
    for i, turn in enumerate(record.messages or ()):
        if turn["content"]:
            yield f"messages.{i}.content", turn["content"]


def secrets_elsewhere(
    forget_records: Iterable[Record], retain_records: Iterable[Record]
) -> list[Elsewhere]:
    """Return which kept records still hold a secret value of those to be deleted.

    Args:
        forget_records: whose `secrets` are looked for.
        retain_records: where.

    Returns:
        One entry a kept field and value, in the order of `kept`.
    """
    patterns: dict[str, tuple[re.Pattern[str], str, str]] = {}
    for record in forget_records:
        for secret in record.secrets:
            text = record.field(secret.field) or ""
            pattern = value_pattern(text[secret.start : secret.end])
            if pattern is not None:
                patterns.setdefault(pattern.pattern, (pattern, secret.kind, record.id))
    elsewhere = []
    for record in retain_records:
        for field, text in texts_of(record):
            plain = normal(text)
            elsewhere += [
                Elsewhere(record.id, field, kind, of)
                for pattern, kind, of in patterns.values()
                if pattern.search(plain)
            ]
    return elsewhere
