"""Text of records for the page, where the user asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unlearn.data.record import shown
from unlearn.data.records import Record, Records

__all__ = ["ShownRecord", "asked_of", "parts_of", "shown_records"]


@dataclass(frozen=True)
class ShownRecord:
    """A record with its text.

    Attributes:
        id: its id.
        asked: what the model is given; None for free text.
        parts: the rest of it as (text, kind of secret or None), in order.
        said: by state, what the model says by itself.
    """

    id: str
    asked: str | None
    parts: tuple[tuple[str, str | None], ...]
    said: Mapping[str, str]


def shown_records(
    records: Records, answers: Mapping[str, Mapping[int, str]]
) -> tuple[ShownRecord, ...]:
    """Put records and what the states said about them side by side.

    Args:
        records: the records.
        answers: by state, what it said by position; records nobody was asked about stay out.

    Returns:
        The records, in order.
    """
    positions = sorted({i for by_position in answers.values() for i in by_position})
    return tuple(
        ShownRecord(
            id=records[i].id,
            asked=asked_of(records[i]),
            parts=parts_of(records[i]),
            said={
                state: by_position[i] for state, by_position in answers.items() if i in by_position
            },
        )
        for i in positions
    )


def asked_of(record: Record) -> str | None:
    """Return what the model is given of a record; None for free text."""
    if record.form == "prompt":
        return record.prompt
    if record.form == "messages":
        turns = record.messages or ()
        last = max((i for i, t in enumerate(turns) if t["role"] == "assistant"), default=0)
        return "\n".join(f"{t['role']}: {shown(t)}" for t in turns[:last])
    return None


def parts_of(record: Record) -> tuple[tuple[str, str | None], ...]:
    """Return the rest of it, cut at its secrets; of overlapping ones the first counts."""
    field = {"prompt": "completion", "text": "text"}.get(record.form)
    if field is None:
        turns = record.messages or ()
        last = max((i for i, t in enumerate(turns) if t["role"] == "assistant"), default=0)
        field = f"messages.{last}.content"
    text = record.field(field) or ""
    if not text and record.messages:  # an answer that is calls alone
        text = shown(record.messages[last])
    parts: list[tuple[str, str | None]] = []
    at = 0
    for secret in sorted(
        (s for s in record.secrets if s.field == field), key=lambda s: (s.start, s.end)
    ):
        if secret.start < at:
            continue
        parts.append((text[at : secret.start], None))
        parts.append((text[secret.start : secret.end], secret.kind))
        at = secret.end
    parts.append((text[at:], None))
    return tuple((piece, kind) for piece, kind in parts if piece)
