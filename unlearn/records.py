"""Records: the rows that a model was trained on, with ids that last.

A record is one of: a `text`; a `prompt` with its `completion`; a conversation, `messages`. It has
an `id` (given, or a digest of its content), optionally a `subject` (the person it is about) and
`secrets` (where its sensitive values are).
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import datasets

__all__ = ["Form", "Record", "Records", "Secret"]

Form = Literal["text", "prompt", "messages"]


@dataclass(frozen=True)
class Secret:
    """Where a sensitive value is: characters [start, end) of a field.

    Attributes:
        field: `text`, `prompt`, `completion` or `messages.N.content`.
        start: first character.
        end: one past the last.
        kind: what it is (`phone`, `email`, …).
    """

    field: str
    start: int
    end: int
    kind: str = "secret"


@dataclass(frozen=True)
class Record:
    """One row.

    Attributes:
        id: unique in its data.
        subject: the person or entity it is about, if known.
        text: the whole text, or None.
        prompt: what is asked, or None.
        completion: what is answered, or None.
        messages: the turns of a conversation, or None.
        secrets: the sensitive values.
    """

    id: str
    subject: str | None = None
    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[dict[str, str], ...] | None = None
    secrets: tuple[Secret, ...] = ()

    @property
    def form(self) -> Form:
        """Which of the three kinds of content it has."""
        if self.text is not None:
            return "text"
        return "prompt" if self.prompt is not None else "messages"

    @property
    def canonical(self) -> str:
        """The content alone as text: the same for equal content, whatever id or subject.

        JSON with keys in a fixed order; strings in Unicode normal form C.
        """
        content: dict[str, Any]
        if self.form == "text":
            content = {"text": self.text}
        elif self.form == "prompt":
            content = {"completion": self.completion, "prompt": self.prompt}
        else:
            content = {"messages": [dict(sorted(m.items())) for m in self.messages or ()]}
        return unicodedata.normalize("NFC", json.dumps(content, ensure_ascii=False))

    def field(self, name: str) -> str | None:
        """Return a content field by the name that `secrets` uses, or None if there is none.

        Args:
            name: `text`, `prompt`, `completion` or `messages.N.content`.

        Returns:
            Its text.
        """
        if name in {"text", "prompt", "completion"}:
            value: str | None = getattr(self, name)
            return value
        parts = name.split(".")
        if len(parts) == 3 and parts[0] == "messages" and parts[2] == "content":
            turns = self.messages or ()
            if parts[1].isdecimal() and int(parts[1]) < len(turns):
                return turns[int(parts[1])]["content"]
        return None


class Records:
    """An immutable sequence of records over a `datasets.Dataset`.

    Args:
        dataset: normalised rows, as `from_rows` makes them.
        source: where they come from, for messages.
        repeated: ids of rows whose content repeats an earlier row's.
    """

    def __init__(
        self, dataset: datasets.Dataset, source: str, repeated: tuple[str, ...] = ()
    ) -> None:
        self.dataset = dataset
        self.source = source
        self.repeated = repeated

    @classmethod
    def load(cls, source: str | Path, *, split: str = "train") -> Records:
        """Load records from a file, a saved dataset folder, or the hub.

        Args:
            source: JSONL (also named .json), JSON, CSV, TSV, Parquet, a folder saved with
                `save_to_disk`, or a hub dataset name.
            split: which split of a saved or hub dataset.

        Returns:
            The records.

        Raises:
            DataError: naming file and line of what cannot be used.
        """
        from unlearn._loading import read_rows

        return cls._from_located(read_rows(source, split), str(source))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], source: str = "rows") -> Records:
        """Make records from dictionaries.

        Args:
            rows: with the keys of a data file.
            source: where they come from, for messages.

        Returns:
            The records.

        Raises:
            DataError: naming the row that cannot be used.
        """
        return cls._from_located(((f"row {i}", row) for i, row in enumerate(rows)), source)

    @classmethod
    def _from_located(cls, rows: Iterable[tuple[str, Any]], source: str) -> Records:
        from unlearn._loading import to_dataset

        dataset, repeated = to_dataset(rows, source)
        return cls(dataset, source, repeated)

    @cached_property
    def ids(self) -> list[str]:
        """The ids, in order."""
        return list(self.dataset["id"])

    @cached_property
    def subjects(self) -> list[str | None]:
        """The subjects, in order; None where a record has none."""
        return list(self.dataset["subject"])

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Record]:
        return map(_record, self.dataset)

    def __getitem__(self, position: int) -> Record:
        return _record(self.dataset[range(len(self))[position]])

    def __repr__(self) -> str:
        return f"Records({len(self)} from {self.source})"

    def select(self, selector: str) -> Records:
        """Return the records that a selector names, in the order of the data.

        Args:
            selector: `id1,id2`, `@file`, `subject:NAME` or `rows:180-199` (from 0, both ends).

        Returns:
            The chosen records, at least one.

        Raises:
            SelectionError: naming what is not there, with the nearest that is.
        """
        from unlearn._selection import find

        return self.take(find(self, selector))

    def take(self, positions: Sequence[int]) -> Records:
        """Return the records at these positions, in the order of the data.

        Args:
            positions: from 0; repeats count once.

        Returns:
            The records.
        """
        rows = sorted(set(positions))
        chosen = {self.ids[i] for i in rows}
        repeated = tuple(name for name in self.repeated if name in chosen)
        return Records(self.dataset.select(rows), self.source, repeated)

    def without(self, other: Records) -> Records:
        """Return the records whose ids are not among another's.

        Args:
            other: what to leave out.

        Returns:
            The rest, possibly empty.
        """
        gone = set(other.ids)
        return self.take([i for i, name in enumerate(self.ids) if name not in gone])


def content_id(record: Record) -> str:
    """Return the id of a record without one: 16 hexadecimal digits of SHA-256 of its content."""
    return hashlib.sha256(record.canonical.encode()).hexdigest()[:16]


def _record(row: Mapping[str, Any]) -> Record:
    turns = row["messages"]
    return Record(
        id=row["id"],
        subject=row["subject"],
        text=row["text"],
        prompt=row["prompt"],
        completion=row["completion"],
        messages=tuple(dict(turn) for turn in turns) if turns else None,
        secrets=tuple(Secret(**secret) for secret in row["secrets"] or ()),
    )
