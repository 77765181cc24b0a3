"""Other values that a secret could have had, from its format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from unlearn.errors import OptionError

__all__ = ["DIGIT", "EXACT", "SAMPLES", "candidates", "format_of", "space"]

DIGIT = "#"
"""Any digit, in a format; everything else stands for itself."""
EXACT = 10_000
"""Largest format of which all values are tried: four digits."""
SAMPLES = 999
"""Values drawn of a larger format; exposure then ends at log2(1000), 10 bits."""

# Values from which a position that never changes counts as part of the format: among this many
# random ones a digit agrees by chance once in ten thousand times.
_ENOUGH = 5


def format_of(value: str, others: Iterable[str] = ()) -> str:
    """Return the format of a value: `#` for each digit that may vary, the rest as it is.

    A digit that is the same in all of five or more values of the kind is taken for a part of the
    format (the dialling code of phone numbers, say), which says nothing of a secret.

    Args:
        value: the secret.
        others: other values of its kind; those of another shape are passed over.

    Returns:
        The format; without `#` if nothing of it can be varied.
    """
    shape = _shape(value)
    alike = {other for other in others if _shape(other) == shape} | {value}
    fixed = len(alike) >= _ENOUGH
    return "".join(
        c if mark != DIGIT or (fixed and len({other[i] for other in alike}) == 1) else DIGIT
        for i, (c, mark) in enumerate(zip(value, shape, strict=True))
    )


def space(form: str) -> int:
    """Return how many values a format has.

    Args:
        form: from `format_of`.

    Returns:
        10 to the number of free digits.
    """
    return int(10 ** form.count(DIGIT))


def candidates(value: str, form: str, seed: Sequence[int] = (0,)) -> list[str]:
    """Return other values of a secret's format: all, or a random sample without repeats.

    Args:
        value: the secret, which is not among them.
        form: its format.
        seed: of the sample.

    Returns:
        All other values of formats of up to `EXACT`, else `SAMPLES` of them.

    Raises:
        OptionError: if the value is not of the format, or the format has no other value.
    """
    fits = len(value) == len(form) and all(
        c.isascii() and c.isdigit() if mark == DIGIT else c == mark
        for c, mark in zip(value, form, strict=True)
    )
    free = form.count(DIGIT)
    if not fits or not free:
        raise OptionError(f"a secret of {len(value)} characters has no other value of its format")
    if space(form) <= EXACT:
        numbers: Iterable[str] = (f"{i:0{free}d}" for i in range(space(form)))
    else:
        rng, drawn = np.random.default_rng(list(seed)), dict[str, None]()
        while len(drawn) < SAMPLES:
            number = "".join(map(str, rng.integers(0, 10, free)))
            if _filled(form, number) != value:
                drawn[number] = None
        numbers = drawn
    return [other for number in numbers if (other := _filled(form, number)) != value]


def _filled(form: str, digits: str) -> str:
    rest = iter(digits)
    return "".join(next(rest) if c == DIGIT else c for c in form)


def _shape(value: str) -> str:
    return "".join(DIGIT if c.isascii() and c.isdigit() else c for c in value)
