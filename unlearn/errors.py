"""The error tree: every mistake a user can make ends in one of these.

```
UnlearnError
├── DataError            a data file or a record is wrong
│   ├── SelectionError   a list of record ids does not fit the data
│   └── SuppressedError  a record was deleted before and must not be trained on again
├── ModelError           a model or adapter folder cannot be used
├── LineageError         a fact about an adapter's origin is missing or contradicts another
├── CertificateError     a certificate or its key cannot be made or read
├── LedgerError          a deletion ledger, or a request in it, does not allow what was asked
├── OptionError          an unknown or impossible option, method or recipe key
├── OutputError          results cannot be written
└── TrainingError        training cannot go on (NaN loss, a tensor without gradient)
```

The command line prints the message of any of these as one line on stderr and exits with code 2.
Messages name the file, line, record or option at fault and say what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CertificateError",
    "DataError",
    "LedgerError",
    "LineageError",
    "ModelError",
    "OptionError",
    "OutputError",
    "SelectionError",
    "SuppressedError",
    "TrainingError",
    "UnlearnError",
    "did_you_mean",
]


class UnlearnError(Exception):
    """Base of every error that a user's input can cause: one line, whatever it quotes."""

    def __init__(self, *args: object) -> None:
        if args and isinstance(args[0], str) and len(args[0].splitlines()) > 1:
            args = (" ".join(args[0].split()), *args[1:])
        super().__init__(*args)


class DataError(UnlearnError):
    """A data file or a record in it cannot be used."""


class SelectionError(DataError):
    """A list of record ids does not fit the data."""


class SuppressedError(DataError):
    """A record on the suppression list was given as training data."""


class ModelError(UnlearnError):
    """A model, tokenizer or adapter cannot be used."""


class LineageError(UnlearnError):
    """A fact about where an adapter comes from is missing or contradicts another."""


class CertificateError(UnlearnError):
    """A certificate of a deletion, or a key to sign or check it, cannot be made or read."""


class LedgerError(UnlearnError):
    """A deletion ledger, or a request in it, does not allow what was asked."""


class OptionError(UnlearnError):
    """An option, method, template or recipe key is unknown or impossible."""


class OutputError(UnlearnError):
    """Results cannot be written where the user asked."""


class TrainingError(UnlearnError):
    """Training cannot go on."""


def did_you_mean(name: str, known: Iterable[str], n: int = 3) -> str:
    """Return `` (did you mean 'a', 'b'?)`` for the names nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f" (did you mean {', '.join(repr(x) for x in near)}?)" if near else ""
