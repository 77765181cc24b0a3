"""Text that others wrote, made safe for a terminal: ids, labels, paths, messages about them."""

from __future__ import annotations

import unicodedata

__all__ = ["printable", "shows_itself"]

_JOINERS = "\u200c\u200d"
"""Within words of Persian and Hindi, and in emoji: they move nothing."""


def printable(text: str) -> str:
    """Replace what could steer a terminal, or make text read otherwise than it is written.

    These are control characters (escape sequences begin with one), those that turn the direction
    of writing or cannot be seen, and halves of surrogate pairs. Line feeds and tabs stay.

    Args:
        text: any.

    Returns:
        The text, with U+FFFD in place of each of these.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if shows_itself(c) else "\N{REPLACEMENT CHARACTER}" for c in text)


def shows_itself(character: str) -> bool:
    """Say whether a character only shows itself: it steers, turns and hides nothing."""
    return (
        character.isprintable()
        or character in "\n\t"
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"
    )
