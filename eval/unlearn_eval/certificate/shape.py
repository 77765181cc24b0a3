"""What a statement must look like, and what is taken over into one: a list of names, no more.

A shape is a `Leaf`; a dictionary of shapes by key; a list of one shape for all its entries;
`Maybe` of a shape where null stands too; `Later`, where older statements have no such key; or
`Each`, of an object whose keys the writer chose.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "COUNT",
    "FLAG",
    "HEX",
    "NUMBER",
    "OBJECT",
    "TEXT",
    "TIME",
    "WEIGHTS",
    "Each",
    "Later",
    "Maybe",
    "MisfitError",
    "fit",
    "one_of",
    "or_null",
    "parse_time",
]


class MisfitError(Exception):
    """Which value is not what its place asks for."""


@dataclass(frozen=True)
class Leaf:
    """A value of its own.

    Attributes:
        words: what is expected.
        test: whether a value is that.
    """

    words: str
    test: Callable[[Any], bool]


@dataclass(frozen=True)
class Maybe:
    """A shape, or null.

    Attributes:
        shape: the shape.
    """

    shape: Any


@dataclass(frozen=True)
class Each:
    """An object whose keys are names of the writer's own, and whose values have one shape.

    Attributes:
        shape: of each value.
    """

    shape: Any


@dataclass(frozen=True)
class Later(Maybe):
    """A shape, or null, of a key that was added later: where it is missing it counts as null."""


def parse_time(text: str) -> datetime.datetime:
    """Return a point in time from ISO 8601 with its offset from UTC.

    Args:
        text: such as `2025-03-01T12:00:00+00:00`.

    Returns:
        The time.

    Raises:
        ValueError: if it is none, or its offset is missing.
    """
    time = datetime.datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} does not say its offset from UTC")
    return time


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_time(value) is not None
    except ValueError:
        return False


_LARGEST = 2**63 - 1
"""The largest whole number: others would not fit where numbers are computed with or shown."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= _LARGEST if isinstance(value, int) else math.isfinite(value)


def _matches(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and bool(compiled.fullmatch(value))


TEXT = Leaf("text", lambda value: isinstance(value, str))
FLAG = Leaf("true or false", lambda value: isinstance(value, bool))
COUNT = Leaf("a whole number from 0", _is_count)
NUMBER = Leaf("a finite number", _is_number)
OBJECT = Leaf("an object", lambda value: isinstance(value, Mapping))
TIME = Leaf("a time in ISO 8601 with its offset from UTC", _is_time)
HEX = Leaf("64 hexadecimal digits", _matches("[0-9a-f]{64}"))
WEIGHTS = Leaf("sha256: and 64 hexadecimal digits", _matches("sha256:[0-9a-f]{64}"))


def one_of(values: Collection[Any]) -> Leaf:
    """Return the shape of one of some values."""
    words = "one of " + ", ".join(map(repr, values))
    return Leaf(words, lambda value: any(type(value) is type(v) and value == v for v in values))


def or_null(leaf: Leaf) -> Leaf:
    """Return the shape of a value or null, of a key that must be there all the same."""
    return Leaf(f"{leaf.words}, or null,", lambda value: value is None or leaf.test(value))


def fit(value: Any, shape: Any, where: str, *, exact: bool = False) -> Any:
    """Return the part of a value that its shape names.

    Args:
        value: anything.
        shape: what is wanted.
        where: what the value is, for messages.
        exact: refuse what the shape does not name, instead of leaving it out, and what is missing,
            instead of putting null where the shape allows it; but for what was added `Later`.

    Returns:
        Dictionaries, lists and single values.

    Raises:
        MisfitError: naming the place that is wrong or missing.
    """
    if isinstance(shape, Maybe):
        return None if value is None else fit(value, shape.shape, where, exact=exact)
    if isinstance(shape, Leaf):
        if not shape.test(value):
            raise MisfitError(f"{where}: {shape.words} expected")
        return value
    if isinstance(shape, list):
        if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
            raise MisfitError(f"{where}: a list expected")
        return [fit(v, shape[0], f"{where}[{i}]", exact=exact) for i, v in enumerate(value)]
    if not isinstance(value, Mapping):
        raise MisfitError(f"{where}: an object expected")
    if isinstance(shape, Each):
        return {k: fit(v, shape.shape, f"{where}.{k}", exact=exact) for k, v in value.items()}
    optional = Later if exact else Maybe
    needed = [name for name, part in shape.items() if not isinstance(part, optional)]
    missing = [name for name in needed if name not in value]
    if missing:
        raise MisfitError(f"{where}: {missing[0]!r} is missing")
    surplus = [name for name in value if name not in shape]
    if exact and surplus:
        raise MisfitError(f"{where}: {surplus[0]!r} does not belong here")
    return {
        name: fit(value.get(name), part, f"{where}.{name}", exact=exact)
        for name, part in shape.items()
    }
