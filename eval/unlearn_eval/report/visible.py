"""Text that others wrote, made safe for a page: it hides nothing, and turns nothing around it."""

from __future__ import annotations

import re
import unicodedata

from unlearn.printable import shows_itself

__all__ = ["visible"]

_FIRST_STRONG, _POP = "\u2068", "\u2069"
_RIGHT = ("R", "AL", "AN")


def visible(text: str) -> str:
    """Write out characters that steer, turn or hide, and isolate what is written from the right.

    Of each line with letters of a script that is written from the right, the whole and, where the
    line itself runs from the left, each run of such letters stand between U+2068 and U+2069, so
    that neighbouring words, numbers and signs keep their places (UAX #9, isolates). These two work
    in attributes as in text, which markup does not.

    Args:
        text: of a record, a label, an id, a message about them.

    Returns:
        The text with `⟨U+202E⟩` for such a character; line ends and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(c if shows_itself(c) else f"⟨U+{ord(c):04X}⟩" for c in text)
    return "\n".join(map(_isolated, shown.split("\n")))


def _isolated(line: str) -> str:
    """Isolate a line, if anything in it is written from the right."""
    kinds = [unicodedata.bidirectional(c) for c in line]
    if line.isascii() or not any(kind in _RIGHT for kind in kinds):
        return line
    first = next(kind for kind in kinds if kind == "L" or kind in _RIGHT)
    return _between(_runs(line, kinds) if first == "L" else line)


def _runs(line: str, kinds: list[str]) -> str:
    """Isolate each run from a letter that is written from the right to the last before others."""
    marks = "".join("R" if kind in _RIGHT else "L" if kind == "L" else " " for kind in kinds)
    pieces, at = [], 0
    for run in re.finditer("R(?:[ R]*R)?", marks):
        pieces += [line[at : run.start()], _between(line[run.start() : run.end()])]
        at = run.end()
    return "".join([*pieces, line[at:]])


def _between(text: str) -> str:
    return f"{_FIRST_STRONG}{text}{_POP}"
