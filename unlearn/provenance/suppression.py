"""The list of deleted records, which are never trained on again."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from unlearn.data.readers import lines_of
from unlearn.data.records import Records
from unlearn.errors import DataError, LineageError, SuppressedError
from unlearn.provenance.keys import Key, home
from unlearn.provenance.lineage import now
from unlearn.strict_json import NotJsonError, parse_json

__all__ = ["check_suppressed", "suppress", "suppressed_among"]


def _suppression_file() -> Path:
    return home() / "suppressed.jsonl"


def suppress(records: Records, reason: str, key: Key | None = None) -> Path:
    """Put records on the suppression list, so that they are never trained on again.

    Args:
        records: the deleted records.
        reason: why and when, for whoever meets the entry later; must not quote the record.
        key: the key of the digests; loaded when absent.

    Returns:
        The list's file.
    """
    key = key or Key.load()
    path = _suppression_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = {entry for _, entry in _suppressed(key)}
    lines = [
        json.dumps({"key_id": key.id, "digest": digest, "reason": reason, "date": now()}) + "\n"
        for digest in dict.fromkeys(key.digest(record) for record in records)
        if digest not in known
    ]
    _append("".join(lines).encode(), path)
    return path


def _append(lines: bytes, path: Path) -> None:
    """Append lines in one piece, or not at all: a reader never meets half an entry."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        written = os.write(descriptor, lines)
        if written < len(lines):  # the disk is full
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _suppressed(key: Key) -> Iterator[tuple[int, str]]:
    """Yield (line number, digest) of the entries of the list."""
    path = _suppression_file()
    if not path.is_file():
        return
    try:
        lines = list(lines_of(path))
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text, so no suppression list") from None
    for number, line in lines:
        try:
            entry = parse_json(line)
            key_id, digest = str(entry["key_id"]), str(entry["digest"])
        except (NotJsonError, KeyError, TypeError):
            raise DataError(f"{path}, line {number}: not an entry of a suppression list") from None
        if key_id != key.id:
            raise LineageError(
                f"{path}, line {number} was made with the key {key_id}, and the key in use is "
                f"{key.id}: records deleted then cannot be recognised; set UNLEARN_KEY to that key"
            )
        yield number, digest


def suppressed_among(digests: Collection[str], key: Key) -> int:
    """Return how many of some keyed digests of records are on the suppression list.

    Args:
        digests: the digests.
        key: their key.

    Returns:
        Their number.
    """
    return len({digest for _, digest in _suppressed(key)} & set(digests))


def check_suppressed(
    records: Records, key: Key | None = None, *, advice: str = "leave them out of the data"
) -> None:
    """Refuse training data that holds a record deleted before.

    Args:
        records: what is about to be trained on.
        key: the key of the digests; loaded when absent.
        advice: how the user can leave them out.

    Raises:
        SuppressedError: naming the records found on the list.
    """
    path = _suppression_file()
    if not path.is_file():
        return
    key = key or Key.load()
    listed = {digest: number for number, digest in _suppressed(key)}
    suppressed = [(r.id, listed[d]) for r in records if (d := key.digest(r)) in listed]
    if suppressed:
        names = ", ".join(f"{name!r} (line {line})" for name, line in suppressed[:5])
        more = f" and {len(suppressed) - 5} more" if len(suppressed) > 5 else ""
        raise SuppressedError(
            f"{records.source}: {len(suppressed)} record(s) were deleted before and are on the "
            f"suppression list {path}: {names}{more}; {advice}"
        )
