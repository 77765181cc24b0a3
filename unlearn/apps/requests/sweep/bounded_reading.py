"""Read one file of others' without being held up by it, and tell what text it is.

Folders that are swept hold what anybody laid there: a pipe that never ends, a file larger than
memory, text in an encoding that it does not name. Such a file is not read, and counts as unclear.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unlearn.errors import DataError
from unlearn.files import regular_bytes

__all__ = ["LIMITS", "Limits", "Text", "decoded", "perhaps", "read_bytes"]


@dataclass(frozen=True)
class Limits:
    """How much one file may take.

    Attributes:
        size: bytes.
        seconds: for all its rows together.
        depth: of lists and objects within each other.
    """

    size: int = 1 << 30
    seconds: float = 900.0
    depth: int = 200


LIMITS = Limits()


class Text(NamedTuple):
    """A file's text, its byte order mark included, and the encoding that it was written in."""

    text: str
    encoding: str


def read_bytes(path: Path, limits: Limits = LIMITS) -> bytes:
    """Return what a regular file holds.

    Args:
        path: of the file; a link is not followed.
        limits: how much of it is read at most.

    Returns:
        All its bytes.

    Raises:
        DataError: if it is a link, a pipe, a socket or a device, or is larger than the limit.
        OSError: if the system does not give it.
    """
    try:
        return regular_bytes(path, limits.size, follow=False)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


_MARKS = (  # the longer ones first: UTF-32 begins as UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HALF = 0.25
"""Share of zero bytes in every second place above which, where the other places hold almost none,
text is UTF-16: of Latin letters nearly all high bytes are zero."""


def decoded(content: bytes) -> Text:
    """Return the text that bytes are, without a guess: all of them must fit.

    By its byte order mark, else UTF-8 without zero bytes, else UTF-16 as its zero bytes show.

    Args:
        content: of a file.

    Returns:
        The text and its encoding; encoding the text gives the same bytes again.

    Raises:
        UnicodeError: if it is neither.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return Text(content.decode(encoding), encoding)
    if b"\0" not in content:
        return Text(content.decode("utf-8"), "utf-8")
    pairs = max(1, len(content) // 2)
    first, second = content[0::2].count(0) / pairs, content[1::2].count(0) / pairs
    if max(first, second) > _HALF and min(first, second) < _HALF / 10:
        encoding = "utf-16-le" if second > first else "utf-16-be"
        return Text(content.decode(encoding), encoding)
    raise UnicodeError("zero bytes, as text has none")


def perhaps(content: bytes) -> Iterator[str]:
    """Yield bytes as what they may stand for: enough to find a text in, not to say it is absent."""
    for encoding in ("utf-8", "cp1252", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        yield content.decode(encoding, errors="ignore")
