"""Where the records of a comparison come from, and which of them are meant.

A source is what `unlearn --data` takes, or `NAME#CONFIG:SPLIT` on the hub, or `demo:PEOPLE`, the
made-up records of the demo. Nothing here imports torch; reading a file for a plan does not even
import `datasets`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unlearn.data.loading import record_of, to_dataset
from unlearn.data.readers import read_rows
from unlearn.data.record import Record, content_id
from unlearn.data.records import Records
from unlearn.data.selectors import find
from unlearn.errors import DataError, OptionError, SelectionError, did_you_mean
from unlearn.model.folders import DEMO, embedded_model

if TYPE_CHECKING:
    from unlearn.apps.compare.recipe import CompareRecipe

__all__ = ["Pool", "Sketch", "is_hub", "model_folder", "parts_of", "sources"]

_PART = "part:"
_NAMED = re.compile(r"([\w.-]+)(?:\[(\d+)-(\d+)\])?")

Located = tuple[str, Any]


def sources(data: str | Mapping[str, str]) -> dict[str, str]:
    """Return the sources of a recipe by the name of their part; one without a name is `data`."""
    return {"data": data} if isinstance(data, str) else dict(data)


def is_hub(source: str) -> bool:
    """Say whether a source, or a model, is not on this machine but on the hub."""
    path = Path(source).expanduser()
    if source.partition(":")[0] == DEMO or path.exists():
        return False
    return "#" in source or not (path.suffix or path.is_absolute() or source.startswith("."))


def model_folder(name: str) -> str:
    """Return the folder or hub name of a recipe's model; `demo` is the embedded one."""
    if name == DEMO and not Path(name).is_dir():
        return str(embedded_model())
    return name


def _rows(source: str) -> Iterator[Located]:
    """Yield the rows of one source with their places."""
    kind, _, people = source.partition(":")
    if kind == DEMO:
        from unlearn.apps.demo import records

        if not people.isdigit() or int(people) < 1:
            raise OptionError(f"data {source!r}: write demo:PEOPLE, such as demo:60")
        yield from ((f"{source}, row {i}", row) for i, row in enumerate(records(int(people), 0)))
    elif "#" in source and not Path(source).exists():
        yield from _of_hub(source)
    else:
        yield from read_rows(source)


def _of_hub(source: str) -> Iterator[Located]:
    import datasets

    name, _, rest = source.partition("#")
    config, _, split = rest.partition(":")
    try:
        dataset = datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"data {source}: the hub does not give it: {reason}") from error
    yield from ((f"{source}, row {i}", row) for i, row in enumerate(dataset))


class Sketch:
    """The records of a file as a plan needs them: without `datasets`, and read once.

    Args:
        located: rows with their places.
        source: where they come from, for messages.
    """

    def __init__(self, located: Iterable[Located], source: str) -> None:
        self.source = source
        self._records: list[Record] = []
        self.ids: list[str] = []
        for where, row in located:
            record = record_of(row, where)
            self._records.append(record)
            given = row.get("id")
            self.ids.append(str(given) if given not in (None, "") else content_id(record))

    @property
    def subjects(self) -> list[str | None]:
        """The subjects, in order."""
        return [record.subject for record in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __getitem__(self, position: int) -> Record:
        return self._records[position]


class Pool:
    """All records of a recipe, by part.

    Args:
        records: the records of all parts, one after the other.
        parts: by name, how many records each part has.
    """

    def __init__(self, records: Records | Sketch, parts: Mapping[str, int]) -> None:
        self.records = records
        self.parts = dict(parts)

    @classmethod
    def load(cls, recipe: CompareRecipe) -> Pool:
        """Read the records to work with them.

        Args:
            recipe: the recipe.

        Returns:
            The pool, over `Records`.

        Raises:
            DataError: naming file and line of what cannot be used.
        """
        located, parts, name = _read(recipe)
        dataset, repeated = to_dataset(located, name)
        return cls(Records(dataset, name, repeated), parts)

    @classmethod
    def sketch(cls, recipe: CompareRecipe) -> Pool:
        """Read the records to count them.

        Args:
            recipe: the recipe, whose sources must be on this machine.

        Returns:
            The pool, over a `Sketch`.

        Raises:
            DataError: naming file and line of what cannot be used.
        """
        located, parts, name = _read(recipe)
        return cls(Sketch(located, name), parts)

    def positions(self, selector: str) -> list[int]:
        """Return the positions of the records that a selector names.

        Args:
            selector: IDS syntax, or `part:NAME,NAME[0-99]`.

        Returns:
            Positions, ascending, at least one.

        Raises:
            SelectionError: naming what is not there.
        """
        if not selector.startswith(_PART):
            # a sketch has all that looking for records takes
            return find(cast(Records, self.records), selector)
        places: list[int] = []
        for name, rows in parts_of(selector):
            if name not in self.parts:
                hint = did_you_mean(name, self.parts)
                raise SelectionError(f"{selector!r}: data has no part {name!r}{hint}")
            size = self.parts[name]
            rows = range(size) if rows is None else rows
            if not rows or rows.stop > size:
                raise SelectionError(f"{selector!r}: {name!r} has rows 0-{size - 1}")
            names = list(self.parts)
            start = sum(self.parts[other] for other in names[: names.index(name)])
            places += range(start + rows.start, start + rows.stop)
        return sorted(set(places))

    def select(self, selector: str) -> Records:
        """Return the records that a selector names, in the order of the data."""
        assert isinstance(self.records, Records)
        return self.records.take(self.positions(selector))


def parts_of(selector: str) -> list[tuple[str, range | None]]:
    """Return the parts that `part:NAME,NAME[0-99]` names, with rows where it gives some.

    Args:
        selector: any selector.

    Returns:
        (name, rows; None for all) of each part; empty for a selector of another kind.

    Raises:
        SelectionError: if it cannot be understood.
    """
    if not selector.startswith(_PART):
        return []
    parts: list[tuple[str, range | None]] = []
    for text in selector.removeprefix(_PART).split(","):
        match = _NAMED.fullmatch(text.strip())
        if not match:
            raise SelectionError(f"{selector!r}: write part:NAME,NAME or part:NAME[0-99]")
        name, first, last = match.groups()
        parts.append((name, None if first is None else range(int(first), int(last) + 1)))
    return parts


def _read(recipe: CompareRecipe) -> tuple[list[Located], dict[str, int], str]:
    located: list[Located] = []
    parts: dict[str, int] = {}
    named = sources(recipe.data)
    for part, source in named.items():
        rows = list(_rows(source))
        parts[part] = len(rows)
        located += rows
    return located, parts, ", ".join(named.values())
