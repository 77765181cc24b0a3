"""Read the tables of a published benchmark: from the hub, or from files under the same names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn.data.readers import read_rows
from unlearn.errors import DataError

__all__ = ["Row", "read_table", "text_of", "texts_of"]

Row = tuple[str, Mapping[str, Any]]
"""A row with the words that say where it is."""

_ENDINGS = (".jsonl", ".json", ".parquet", ".csv")


def read_table(
    source: str | Path, name: str, split: str = "train", limit: int | None = None
) -> list[Row]:
    """Read one table of a benchmark.

    Args:
        source: a hub dataset name; a folder that holds `NAME/SPLIT` or `NAME` as JSON lines (also
            named .json), JSON, Parquet or CSV; or one such file.
        name: the configuration on the hub.
        split: the split on the hub.
        limit: the first so many rows only; None for all.

    Returns:
        The rows with their places, at least one.

    Raises:
        DataError: if there is no such table, it is empty, or a row is no object.
    """
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} rows leaves nothing to measure; give 1 or more")
    path = Path(source).expanduser()
    if path.is_dir():
        rows = list(read_rows(_file(path, name, split)))
    elif path.exists() or path.is_absolute() or str(source).startswith("."):
        rows = list(read_rows(path))
    else:
        rows = _hub(str(source), name, split)
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: a row is an object, not {type(row).__name__}")
    if not rows:
        raise DataError(f"{source}: the table {name!r} is empty")
    return rows[:limit]


def _file(folder: Path, name: str, split: str) -> Path:
    """Find the file of a table in a folder."""
    tried = [
        folder / f"{stem}{ending}" for stem in (f"{name}/{split}", name) for ending in _ENDINGS
    ]
    for path in tried:
        if path.is_file():
            return path
    raise DataError(
        f"{folder}: no table {name!r} (split {split!r}) in it; looked for "
        f"{name}/{split} and {name} with the endings {', '.join(_ENDINGS)}"
    )


def _hub(source: str, name: str, split: str) -> list[Row]:
    import datasets

    try:
        table = datasets.load_dataset(source, name, split=split)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{source}: no such file or folder here, and the hub gives no table {name!r} with a "
            f"split {split!r}: {reason}"
        ) from error
    return [(f"{source}/{name}, row {i}", row) for i, row in enumerate(table)]


def text_of(row: Row, key: str) -> str:
    """Return a field that must be text.

    Args:
        row: the row with its place.
        key: the field.

    Returns:
        Its text.

    Raises:
        DataError: naming the row, if the field is missing, empty or no text.
    """
    where, fields = row
    value = fields.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key!r} must be text that is not empty")
    return value


def texts_of(row: Row, key: str) -> tuple[str, ...]:
    """Return a field that must be a list of texts, or one text.

    Args:
        row: the row with its place.
        key: the field.

    Returns:
        Its texts, at least one.

    Raises:
        DataError: naming the row, if the field is something else.
    """
    where, fields = row
    value = fields.get(key)
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"{where}: {key!r} must be a list of texts")
    return tuple(text_of((where, {key: text}), key) for text in value)
