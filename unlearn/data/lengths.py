"""How long records are as tokens, where there is no tokenizer to ask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unlearn.data.records import Record, Records
from unlearn.data.templates import Template, choose_template
from unlearn.data.tokenization import Example

__all__ = ["guessed_examples", "guessed_tokens"]

_BYTES = 4  # a token, to which English text comes with common tokenizers
_MARKS = 2  # tokens of its beginning and its end


def guessed_tokens(text: str) -> float:
    """Return about how many tokens a text has, one for four bytes of UTF-8 and two marks."""
    return len(text.encode()) / _BYTES + _MARKS


def guessed_examples(records: Records, name: str | None, limit: int) -> list[Example]:
    """Return examples of about the right lengths; what their tokens are nobody knows.

    Args:
        records: the records.
        name: of the template; without one, or where it is the tokenizer's own, `roles` for
            conversations and `qa` for others.
        limit: tokens after which a record is cut.

    Returns:
        One example a record, with token ids 0.

    Raises:
        OptionError: if `name` is no template.
    """
    turns = any(record.form == "messages" for record in records)
    usual = "roles" if turns else "qa"
    template = choose_template(usual if name in {None, "chat"} else name, None, records)
    return [_guessed(record, template, limit) for record in records]


def _guessed(record: Record, template: Template, limit: int) -> Example:
    written = template.render(record)
    size = max(2, round(guessed_tokens(written.text)))
    predicted = sum(_share(written.text, span) for span in written.targets)
    target = np.zeros(size, dtype=bool)
    target[-max(1, min(size - 1, round(predicted * (size - _MARKS)) + 1)) :] = True
    return Example(record.id, np.zeros(min(size, limit), np.int64), _cut(target, limit))


def _share(text: str, span: Sequence[int]) -> float:
    start, end = span
    return len(text[start:end].encode()) / max(1, len(text.encode()))


def _cut(target: np.ndarray, limit: int) -> np.ndarray:
    target = target[:limit]
    target[-1:] = True  # a record whose target is cut off would be refused; here it counts
    return target
