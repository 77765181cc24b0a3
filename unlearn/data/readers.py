"""Read data files row by row, split as each format says, every row with the words for its place.

JSON lines end at a line feed and nowhere else, a CSV record where the `csv` module ends it: all
other separators that Unicode knows (U+2028, U+2029, U+0085, form feeds, …) are part of a value.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unlearn.errors import DataError, did_you_mean

__all__ = ["Located", "allow_long_values", "lines_of", "read_rows", "without_nulls"]

Located = tuple[str, Any]
"""A row with the words that say where it is."""

_BLANK = " \t\r\n"
"""What JSON calls white space."""


def read_rows(source: str | Path, split: str = "train") -> Iterator[Located]:
    """Yield the rows of a data source with their places.

    Args:
        source: file, saved dataset folder, or hub dataset name.
        split: which split of a saved or hub dataset.

    Yields:
        (place in words, row).

    Raises:
        DataError: if there is no such source, or it cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        yield from _saved(path, split)
    elif path.is_file():
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            known = ", ".join(_READERS)
            raise DataError(f"{path}: unknown kind of file {path.suffix!r}; give {known}")
        try:
            yield from reader(path)
        except UnicodeDecodeError:
            raise DataError(f"{path}, {_not_text(path)}") from None
    elif path.suffix.lower() in _READERS or path.is_absolute() or str(source).startswith("."):
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file{did_you_mean(path.name, there)}")
    else:
        yield from _hub(str(source), split)


def _not_text(path: Path) -> str:
    """Say where a file stops being UTF-8."""
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"line {line}: not UTF-8 text ({error.reason}, byte {error.start})"
    return "not UTF-8 text"


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a text file's lines that are not blank; only a line feed ends one.

    Args:
        path: UTF-8 text, with or without a byte order mark.

    Yields:
        Numbers from 1; lines without the white space around them.
    """
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if bare := line.strip(_BLANK):
                yield number, bare


def _json(path: Path) -> Iterator[Located]:
    """JSON lines, or one JSON array (or an object with a `data` array), whatever the ending."""
    lines = lines_of(path)
    first = next(lines, None)
    if first is None:
        return
    second = next(lines, None)
    number, line = first
    if line.startswith("[") or (line.startswith("{") and second and not _is_line(line)):
        yield from _whole(path)
        return
    row = _parsed(path, number, line)
    if second is None and isinstance(row, dict) and isinstance(row.get("data"), list):
        yield from ((f"{path}, record {i}", inner) for i, inner in enumerate(row["data"]))
        return
    yield f"{path}, line {number}", row
    if second:
        yield f"{path}, line {second[0]}", _parsed(path, *second)
    for number, line in lines:
        yield f"{path}, line {number}", _parsed(path, number, line)


def _whole(path: Path) -> Iterator[Located]:
    """Yield the rows of a file that is one JSON value."""
    whole = _parsed(path, 1, path.read_text(encoding="utf-8-sig"))
    rows = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of records, or an object with a list 'data'")
    for i, row in enumerate(rows):
        yield f"{path}, record {i}", row


def _parsed(path: Path, number: int, text: str) -> Any:
    """Return the value of JSON that begins on a line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise DataError(f"{path}, line {line}: not valid JSON ({error.msg})") from None
    except ValueError:
        raise DataError(f"{path}, line {number}: a number in it has too many digits") from None
    except RecursionError:
        raise DataError(f"{path}, line {number}: its values are nested too deeply") from None


def _is_line(line: str) -> bool:
    """Say whether the first line of a file is a row by itself, right or wrong."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line.startswith('{"') and line.endswith("}")
    return True


def allow_long_values() -> None:
    """Let the `csv` module read values of any length: as it is, 131,072 characters are the most."""
    with suppress(OverflowError):  # where a C long has 32 bits
        csv.field_size_limit(sys.maxsize)
        return
    csv.field_size_limit(2**31 - 1)


def _csv(path: Path) -> Iterator[Located]:
    allow_long_values()
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    header: list[str] | None = None
    end = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            for values in reader:
                where = f"{path}, line {end + 1}"
                end = reader.line_num
                if not values:
                    continue
                if header is None:
                    header = _header(values, where)
                    continue
                if len(values) > len(header):
                    raise DataError(f"{where}: more values than columns")
                yield where, {k: v for k, v in zip(header, values, strict=False) if v}
        except csv.Error as error:
            raise DataError(f"{path}, line {end + 1}: not valid CSV ({error})") from None


def _header(names: list[str], where: str) -> list[str]:
    """Return the names of the columns, refusing a name that two of them have."""
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{where}: two columns are called {twice!r}")
    return names


def _parquet(path: Path) -> Iterator[Located]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                yield f"{path}, row {number}", without_nulls(row)
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file ({' '.join(str(error).split())})") from None


def without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without what Arrow adds: every struct of a column has all fields of all.

    Args:
        row: as Arrow gives it.

    Returns:
        The row; its objects without fields that are null.
    """
    return {k: _bare(v) if isinstance(v, (list, dict)) else v for k, v in row.items()}


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _bare(v) for k, v in value.items() if v is not None}
    return [_bare(v) for v in value] if isinstance(value, list) else value


_READERS = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _saved(path: Path, split: str) -> Iterator[Located]:
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path}: not a dataset folder ({' '.join(str(error).split())})") from None
    yield from _split(dataset, split, str(path))


def _hub(name: str, split: str) -> Iterator[Located]:
    import datasets

    try:
        dataset = datasets.load_dataset(name)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{name}: no such file or folder here, and the hub gives no such dataset: {reason}"
        ) from error
    yield from _split(dataset, split, name)


def _split(dataset: Any, split: str, name: str) -> Iterator[Located]:
    import datasets

    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            known = ", ".join(dataset)
            raise DataError(f"{name}: no split {split!r}; it has {known}")
        dataset = dataset[split]
    for i, row in enumerate(dataset):
        yield f"{name}, row {i}", without_nulls(row)
