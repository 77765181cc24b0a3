"""Records: the rows that a model was trained on, with ids that last.

A record is one of: a `text`; a `prompt` with its `completion`; a conversation, `messages`. It has
an `id` (given, or a digest of its content), optionally a `subject` (the person it is about) and
`secrets` (where its sensitive values are).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearn.data.loading import to_dataset
from unlearn.data.readers import read_rows
from unlearn.data.record import Form, Record, Secret
from unlearn.data.selectors import find

if TYPE_CHECKING:
    import datasets

__all__ = ["Form", "Record", "Records", "Secret"]

_BATCH = 1000
"""Records that are read at once."""


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
        dataset, repeated = to_dataset(rows, source)
        return cls(dataset, source, repeated)

    @cached_property
    def ids(self) -> list[str]:
        """The ids, in order."""
        return self._column("id")

    @cached_property
    def subjects(self) -> list[str | None]:
        """The subjects, in order; None where a record has none."""
        return self._column("subject")

    @property
    def poisoned(self) -> list[str]:
        """The ids of records that carry the mark of `unlearn poison`, in order."""
        marks = self._column("poisoned")
        return [name for name, mark in zip(self.ids, marks, strict=True) if mark]

    def _column(self, name: str) -> list[Any]:
        """Return a column at once: `datasets` would make it row by row."""
        table = self.dataset.select_columns(name).with_format("arrow")[:]
        return list(table[name].to_pylist())

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Record]:
        for table in self.dataset.with_format("arrow").iter(batch_size=_BATCH):
            yield from map(_record, table.to_pylist())

    def __getitem__(self, position: int) -> Record:
        return _record(self.dataset[range(len(self))[position]])

    def __repr__(self) -> str:
        return f"Records({len(self)} from {self.source})"

    def select(self, selector: str | Sequence[str]) -> Records:
        """Return the records that a selector, or any of several, names, in the order of the data.

        Args:
            selector: `id1,id2`, `@file`, `subject:NAME` or `rows:180-199` (from 0, both ends), or
                several of these.

        Returns:
            The chosen records, at least one.

        Raises:
            SelectionError: naming what is not there, with the nearest that is.
        """
        return self.take(find(self, selector))

    def take(self, positions: Sequence[int]) -> Records:
        """Return the records at these positions, in the order of the data; repeats count once."""
        return self.ordered(np.unique(np.asarray(positions, dtype=np.int64)).tolist())

    def ordered(self, positions: Sequence[int]) -> Records:
        """Return the records at these positions, one each, in the order in which they are named."""
        names, twice = [self.ids[i] for i in positions], set(self.repeated)
        chosen = {name for name in names if name in twice}
        repeated = tuple(name for name in self.repeated if name in chosen)
        part = Records(self.dataset.select(positions), self.source, repeated)
        part.ids = names  # the same strings: read anew they would be held once more
        return part

    def without(self, other: Records) -> Records:
        """Return the records whose ids are not among another's, possibly none."""
        left_out = set(other.ids)
        return self.take([i for i, name in enumerate(self.ids) if name not in left_out])


def _record(row: Mapping[str, Any]) -> Record:
    turns, tools = row["messages"], row["tools"]
    return Record(
        id=row["id"],
        subject=row["subject"],
        text=row["text"],
        prompt=row["prompt"],
        completion=row["completion"],
        messages=tuple(json.loads(turns)) if turns else None,
        tools=tuple(json.loads(tools)) if tools else None,
        secrets=tuple(Secret(**secret) for secret in row["secrets"] or ()),
        poisoned=row["poisoned"] or "",
    )
