"""Which records a selector names: the IDS syntax of the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from unlearn.data.loading import record_of
from unlearn.data.readers import lines_of
from unlearn.data.record import Record
from unlearn.errors import SelectionError, did_you_mean

__all__ = ["Selectable", "find"]

_FORMS = "write id1,id2 | @file | subject:NAME | rows:180-199 (from 0, both ends)"
_PREFIX = re.compile(r"[a-z]+:")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


class Selectable(Protocol):
    """What records can be chosen from: their ids and subjects, in order, and the records."""

    source: str

    @property
    def ids(self) -> Sequence[str]:
        """One each."""

    @property
    def subjects(self) -> Sequence[str | None]:
        """None where a record has none."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]: ...


def find(records: Selectable, selector: str | Sequence[str]) -> list[int]:
    """Return the positions of the records that a selector, or any of several, names.

    Args:
        records: where to look.
        selector: `id1,id2` | `@file` | `subject:NAME` | `rows:180-199,7`, or several of these.

    Returns:
        Positions, ascending, at least one.

    Raises:
        SelectionError: naming what is not there, with the nearest that is.
    """
    if not isinstance(selector, str):
        return _any_of(records, selector)
    text = selector.strip()
    if text.startswith("rows:"):
        positions = _rows(records, text.removeprefix("rows:"))
    elif text.startswith("subject:"):
        positions = _subject(records, text.removeprefix("subject:").strip())
    elif text.startswith("@"):
        positions = _file(records, Path(text[1:]).expanduser())
    else:
        positions = _ids(records, _names(text))
    if not positions:
        raise SelectionError(f"{selector!r} names no record of {records.source}")
    return sorted(set(positions))


def _any_of(records: Selectable, selectors: Sequence[str]) -> list[int]:
    """Return the positions that any of several selectors names; ids are looked up all at once."""
    names: list[str] = []
    positions: set[int] = set()
    for one in selectors:
        named = [] if one.strip().startswith(_MARKS) else _names(one)
        names += named
        if not named:
            positions.update(find(records, one))
    return sorted(positions.union(_ids(records, names) if names else ()))


_MARKS = ("rows:", "subject:", "@")
"""How selectors begin that do not list ids."""


def _names(text: str) -> list[str]:
    """Return the ids in a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _rows(records: Selectable, text: str) -> list[int]:
    positions: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match:
            raise SelectionError(f"rows:{text}: write rows:180-199 or rows:3,7 (from 0)")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first or last >= len(records):
            raise SelectionError(
                f"rows:{part}: {records.source} has rows 0-{len(records) - 1}, in ascending order"
            )
        positions += range(first, last + 1)
    return positions


def _subject(records: Selectable, name: str) -> list[int]:
    positions = [i for i, subject in enumerate(records.subjects) if subject == name]
    if not positions:
        known = sorted({s for s in records.subjects if s is not None})
        hint = did_you_mean(name, known) if known else "; its records name no subject"
        raise SelectionError(f"no record of {records.source} has the subject {name!r}{hint}")
    return positions


def _ids(records: Selectable, names: Iterable[str], where: str = "") -> list[int]:
    places = {name: i for i, name in enumerate(records.ids)}
    unknown = [name for name in dict.fromkeys(names) if name not in places]
    if unknown:
        shown = ", ".join(f"{n!r}{did_you_mean(n, places)}" for n in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        forms = "" if where or not _PREFIX.match(unknown[0]) else f"; {_FORMS}"
        raise SelectionError(f"{where}{records.source} has no record {shown}{more}{forms}")
    return [places[name] for name in names]


def _file(records: Selectable, path: Path) -> list[int]:
    """Ids one a line, or JSON lines with `id`, or rows without ids, matched by content."""
    if not path.is_file():
        raise SelectionError(f"@{path}: no such file")
    try:
        entries = list(lines_of(path))
    except UnicodeDecodeError:
        raise SelectionError(f"@{path}: not UTF-8 text") from None
    if not entries:
        raise SelectionError(f"@{path}: no id in it")
    if not entries[0][1].startswith("{"):
        return _ids(records, [line for _, line in entries], f"@{path}: ")
    rows = [(number, _object(path, number, line)) for number, line in entries]
    names = [str(row["id"]) for _, row in rows if row.get("id") is not None]
    if names and len(names) < len(rows):
        raise SelectionError(f"@{path}: some lines have an id and some do not; give all or none")
    if names:
        return _ids(records, names, f"@{path}: ")
    return _by_content(records, path, rows)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", error)
        raise SelectionError(f"@{path}, line {number}: not valid JSON ({why})") from None
    if not isinstance(row, dict):
        raise SelectionError(f"@{path}, line {number}: not an object")
    return row


def _by_content(
    records: Selectable, path: Path, rows: list[tuple[int, dict[str, Any]]]
) -> list[int]:
    """Match rows by content; a row names every copy of itself."""
    places: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        places.setdefault(record.canonical, []).append(i)
    positions: list[int] = []
    for number, row in rows:
        where = f"@{path}, line {number}"
        content = record_of(row, where).canonical
        if content not in places:
            raise SelectionError(f"{where}: no record of {records.source} has this content")
        positions += places[content]
    return positions
