"""Count the rows of data files that hold given records, and write the files again without them.

Rows that stay are kept as they were: lines byte for byte in JSON lines and CSV, values and schema
in Parquet and saved datasets. A rewritten file is read back before it takes the old one's place.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from unlearn.apps.requests.sweep.bounded_reading import (
    LIMITS,
    Limits,
    Text,
    decoded,
    perhaps,
    read_bytes,
)
from unlearn.apps.requests.sweep.matching import Matcher, WatchedMatcher
from unlearn.data.loading import record_of
from unlearn.data.readers import allow_long_values, without_nulls
from unlearn.errors import DataError, OutputError
from unlearn.files import discard_stages, staged_file, staged_folder

__all__ = ["READABLE", "TEXT", "dataset_files", "held", "is_dataset", "rewrite"]

READABLE = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
TEXT = (
    *(".txt", ".md", ".log", ".html", ".htm", ".yaml", ".yml", ".xml", ".arrow", ".jinja"),
    *(".py", ".rst", ".tex", ".sql", ".toml", ".ini", ".cfg"),
)
"""Searched for the records' text, and to be cleaned by hand."""


def _is_record(row: Any) -> bool:
    try:
        record_of(row, "row")
    except DataError:
        return False
    return True


class Split(NamedTuple):
    """A file's rows: how many hold a record, how many do not, and the latter as a file again."""

    gone: int
    kept: int
    write: Callable[[Path], None]


def is_dataset(folder: Path) -> bool:
    """Say whether a folder was saved by `Dataset.save_to_disk`."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def dataset_files(folder: Path) -> frozenset[Path]:
    """Return the files that a saved dataset consists of; those of its parts among them.

    Args:
        folder: of the dataset.

    Returns:
        Their paths, all of them regular files.

    Raises:
        DataError: if one is missing, is no regular file, or lies elsewhere.
    """
    files = {folder / "dataset_dict.json"}
    if (folder / "state.json").is_file():
        state = _object(folder / "state.json")
        names = [entry.get("filename") for entry in state.get("_data_files") or [{}]]
        files = {folder / name for name in ("state.json", "dataset_info.json")}
        files |= {folder / _own_name(folder, name) for name in names}
    else:
        for name in _object(folder / "dataset_dict.json").get("splits") or [None]:
            files |= dataset_files(folder / _own_name(folder, name))
    for path in files:
        if not (path.exists() or path.is_symlink()):
            raise DataError(f"{folder}: not a dataset folder ({path.name} is missing)")
        if not stat.S_ISREG(path.lstat().st_mode) or path.parent.is_symlink():
            raise DataError(f"{path}: no regular file")
    return frozenset(files)


def _own_name(folder: Path, name: Any) -> str:
    if not isinstance(name, str) or name in {"", ".", ".."} or Path(name).name != name:
        raise DataError(f"{folder}: a file that it names leads out of it")
    return name


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path, Limits(size=64 << 20)))
    except (ValueError, RecursionError, OSError):
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{path.parent}: not a dataset folder ({path.name} cannot be read)")
    return content


def held(path: Path, matcher: Matcher, limits: Limits = LIMITS) -> int:
    """Return how many rows of a data file or saved dataset hold one of the records.

    Args:
        path: with an ending in `READABLE` or `TEXT`, or a saved dataset.
        matcher: of the records.
        limits: how much it may take.

    Returns:
        The number of rows; of a text, 1 where it holds one.

    Raises:
        DataError: if it cannot be read, or not within the limits. Text that is neither UTF-8 nor
            UTF-16 counts where it holds a record in another encoding; else it cannot be read.
    """
    watched = WatchedMatcher(matcher, path, limits)
    try:
        if path.suffix.lower() in TEXT and not is_dataset(path):
            read = _arrow if path.suffix.lower() == ".arrow" else _text
            return int(read(path, watched))
        return _split(path, watched).gone
    except UnicodeError:
        if any(watched.text(text) for text in perhaps(read_bytes(path, limits))):
            return 1
        raise DataError(f"{path}: not UTF-8 text, nor UTF-16") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deep") from None


def _text(path: Path, matcher: WatchedMatcher) -> bool:
    return matcher.text(_read_text(path, matcher).text)


def _arrow(path: Path, matcher: WatchedMatcher) -> bool:
    """Say whether a row of an Arrow file or stream holds a record."""
    import pyarrow as pa

    content = read_bytes(path, matcher.limits)
    try:
        opened = pa.ipc.open_file if content.startswith(b"ARROW1") else pa.ipc.open_stream
        table = opened(pa.BufferReader(content)).read_all()
        rows = (row for batch in table.to_batches() for row in batch.to_pylist())
        return any(matcher.row(without_nulls(row)) for row in rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not an Arrow file ({' '.join(str(error).split())})") from None


def rewrite(path: Path, matcher: Matcher) -> tuple[int, int]:
    """Write a data file or saved dataset again without the rows that hold a record, atomically.

    Args:
        path: with an ending in `READABLE`, or a saved dataset; not a link.
        matcher: of the records.

    Returns:
        (rows taken out, rows kept).

    Raises:
        OutputError: if what was written does not hold exactly the rows to keep; the file is left.
    """
    try:
        split = _split(path, matcher)
    except UnicodeError:
        raise DataError(f"{path}: not UTF-8 text, nor UTF-16") from None
    discard_stages(path)
    if path.is_dir():
        _nothing_else(path)
        with staged_folder(path, overwrite=True) as stage:
            split.write(stage)
            _confirm(path, _split(stage, matcher), split)
    else:
        with staged_file(path) as stage:
            stage.touch(mode=0o600)
            split.write(stage)
            shutil.copymode(path, stage)
            _confirm(path, _split(stage, matcher, path.suffix), split)
    return split.gone, split.kept


def _nothing_else(folder: Path) -> None:
    """Refuse to put another folder in the place of one that holds more than a dataset.

    What the dataset itself keeps of its transformations (`cache-*.arrow`) may go with it.
    """
    own = dataset_files(folder)
    others = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path not in own
        and not (path.is_dir() and not path.is_symlink())
        and not path.match("cache-*.arrow")
    )
    if others:
        raise OutputError(
            f"{folder} holds {len(others)} file(s) that are no part of the dataset, among them "
            f"{others[0]}: move them away, or take the records out by hand"
        )


def _confirm(path: Path, written: Split, wanted: Split) -> None:
    if (written.gone, written.kept) != (0, wanted.kept):
        raise OutputError(
            f"{path}: rewriting it would not leave exactly its other {wanted.kept} row(s); nothing "
            "was changed, take the records out by hand"
        )


def _split(path: Path, matcher: Matcher, suffix: str = "") -> Split:
    if is_dataset(path):
        return _dataset(path, matcher)
    kind = (suffix or path.suffix).lower()
    return _SPLITS[kind](path, matcher, kind)


def _lines(pieces: list[tuple[str, bool]], encoding: str, headers: int = 0) -> Split:
    """Split a text of pieces, each with whether it goes; blank ones and headers are no rows."""
    retained = [piece for piece, is_held in pieces if not is_held]
    rows = sum(bool(piece.strip()) for piece in retained) - headers
    # without the mark of its first line a file would be in an encoding that it does not name
    marked = encoding != "utf-8" and pieces[0][1] and pieces[0][0].startswith("\ufeff")
    text = ("\ufeff" if marked else "") + "".join(retained)
    return Split(
        len(pieces) - len(retained), rows, lambda stage: _write_text(stage, text, encoding)
    )


def _write_text(stage: Path, text: str, encoding: str = "utf-8") -> None:
    stage.write_bytes(text.encode(encoding))


def _read_text(path: Path, matcher: Matcher) -> Text:
    return decoded(_content(path, matcher))  # newlines as they are


def _content(path: Path, matcher: Matcher) -> bytes:
    return read_bytes(path, matcher.limits)


def _jsonl(path: Path, matcher: Matcher, kind: str) -> Split:
    text, encoding = _read_text(path, matcher)
    pieces = []
    # at newlines only: a string may hold the other separators that splitlines knows
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        try:
            is_held = bool(line.strip()) and matcher.row(json.loads(line.lstrip("\ufeff")))
        except (ValueError, RecursionError):
            if number == 1 or kind == ".json":
                return _json(path, matcher)
            raise DataError(f"{path}, line {number}: not valid JSON") from None
        pieces.append((line, is_held))
    if len(pieces) == 1:  # may be one array on one line
        return _json(path, matcher)
    return _lines(pieces, encoding)


def _json(path: Path, matcher: Matcher) -> Split:
    """A list of rows, or an object with some under `data`; written with the same indent."""
    text, encoding = _read_text(path, matcher)
    try:
        whole = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{path}, line {line}: not valid JSON") from None
    inner = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(inner, list):
        is_held = matcher.row(whole)

        def write(stage: Path) -> None:
            if is_held and not _is_record(whole):  # nothing says which part of it is the record
                raise OutputError(
                    f"{path} is one JSON object, not a list of records: take them out by hand"
                )
            _write_text(stage, "" if is_held else text, encoding)

        return Split(int(is_held), int(not is_held), write)
    marks = [matcher.row(row) for row in inner]
    retained = [row for row, is_held in zip(inner, marks, strict=True) if not is_held]
    result = {**whole, "data": retained} if isinstance(whole, dict) else retained
    indent = 2 if "\n" in text.strip() else None
    written = json.dumps(result, indent=indent, ensure_ascii=False)
    mark = "\ufeff" if text.startswith("\ufeff") and encoding != "utf-8" else ""
    return Split(
        sum(marks),
        len(retained),
        lambda stage: _write_text(stage, f"{mark}{written}\n", encoding),
    )


def _csv(path: Path, matcher: Matcher, kind: str) -> Split:
    """Each row with the lines that it was written on, so that those which stay stay as written."""
    allow_long_values()
    separator = "\t" if kind == ".tsv" else ","
    text, encoding = _read_text(path, matcher)
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=separator, strict=True)
    pieces: list[tuple[str, bool]] = []
    header: list[str] | None = None
    start = 0
    for values in _rows(path, reader):
        piece = "".join(lines[start : reader.line_num])
        start = reader.line_num
        if header is None:
            header = [name.lstrip("\ufeff") for name in values]
            pieces.append((piece, False))
        else:
            row = {name: value for name, value in zip(header, values, strict=False) if value}
            pieces.append((piece, bool(row) and matcher.row(row)))
    return _lines(pieces, encoding, headers=1 if header else 0)


def _rows(path: Path, reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None


def _parquet(path: Path, matcher: Matcher, _: str) -> Split:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(_content(path, matcher)))
        batches = file.iter_batches()
        marks = [matcher.row(without_nulls(row)) for batch in batches for row in batch.to_pylist()]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file ({' '.join(str(error).split())})") from None

    def write(stage: Path) -> None:
        start = 0
        with pq.ParquetWriter(stage, file.schema_arrow) as writer:
            for batch in file.iter_batches():
                keep = [not is_held for is_held in marks[start : start + len(batch)]]
                start += len(batch)
                writer.write_batch(batch.filter(pa.array(keep, pa.bool_())))

    return Split(sum(marks), len(marks) - sum(marks), write)


def _dataset(path: Path, matcher: Matcher) -> Split:
    import datasets

    size = sum(file.lstat().st_size for file in dataset_files(path))
    if size > matcher.limits.size:
        raise DataError(f"{path}: larger than the {matcher.limits.size} bytes that a sweep reads")
    try:
        dataset = datasets.load_from_disk(str(path), keep_in_memory=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a dataset folder ({' '.join(str(error).split())})") from None
    parts = dataset if isinstance(dataset, datasets.DatasetDict) else {"": dataset}
    marks = {
        name: [matcher.row(without_nulls(row)) for row in part] for name, part in parts.items()
    }
    count = sum(sum(part) for part in marks.values())
    total = sum(len(part) for part in marks.values())

    def write(stage: Path) -> None:
        retained = {
            name: part.select([i for i, mark in enumerate(marks[name]) if not mark])
            for name, part in parts.items()
        }
        result = datasets.DatasetDict(retained) if "" not in retained else retained[""]
        result.save_to_disk(str(stage))

    return Split(count, total - count, write)


_SPLITS: dict[str, Callable[[Path, Matcher, str], Split]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
