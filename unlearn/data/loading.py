"""Read data files, row by row, so that every complaint can name file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unlearn.data.record import Record, Secret, content_id
from unlearn.errors import DataError, did_you_mean

__all__ = ["read_rows", "record_of", "to_dataset"]

Located = tuple[str, Any]
"""A row with the words that say where it is."""

# Other names for prompt and completion, as common datasets have them.
_PROMPTS = ("prompt", "question", "instruction")
_COMPLETIONS = ("completion", "answer", "response", "output")
_ROLES = ("system", "user", "assistant", "tool", "developer")


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
        yield from reader(path)
    elif path.suffix.lower() in _READERS or path.is_absolute() or str(source).startswith("."):
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file{did_you_mean(path.name, there)}")
    else:
        yield from _hub(str(source), split)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from None


def _json(path: Path) -> Iterator[Located]:
    """JSON lines, or one JSON array (or an object with a `data` array), whatever the ending."""
    text = _text(path)
    start = text.lstrip()[:1]
    lines = [(i, line) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if start == "[" or (start == "{" and len(lines) > 1 and not _is_json(lines[0][1])):
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
        rows = whole.get("data") if isinstance(whole, dict) else whole
        if not isinstance(rows, list):
            raise DataError(f"{path}: expected a list of records, or an object with a list 'data'")
        for i, row in enumerate(rows):
            yield f"{path}, record {i}", row
        return
    for number, line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error.msg})") from None
        if len(lines) == 1 and isinstance(row, dict) and isinstance(row.get("data"), list):
            yield from ((f"{path}, record {i}", inner) for i, inner in enumerate(row["data"]))
        else:
            yield f"{path}, line {number}", row


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return line.lstrip().startswith('{"') and line.rstrip().endswith("}")
    return True


def _csv(path: Path) -> Iterator[Located]:
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(_text(path).splitlines(keepends=True), delimiter=separator)
    for row in reader:
        if None in row:
            raise DataError(f"{path}, line {reader.line_num}: more values than columns")
        filled = {key: value for key, value in row.items() if value not in {None, ""}}
        yield f"{path}, line {reader.line_num}", filled


def _parquet(path: Path) -> Iterator[Located]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file ({' '.join(str(error).split())})") from None
    number = 0
    for batch in file.iter_batches():
        for row in batch.to_pylist():
            yield f"{path}, row {number}", row
            number += 1


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
        yield f"{name}, row {i}", row


def record_of(row: Any, where: str, identifier: str = "") -> Record:
    """Check a row and make a record of it.

    Args:
        row: what the file holds.
        where: its place, for messages.
        identifier: its id.

    Returns:
        The record.

    Raises:
        DataError: naming the place and what is wrong.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a record is an object, not {type(row).__name__}")
    present = {k: v for k, v in row.items() if v is not None}
    prompt_key = next((k for k in _PROMPTS if k in present), None)
    completion_key = next((k for k in _COMPLETIONS if k in present), None)
    forms = [k for k in ("text", "messages") if k in present]
    if prompt_key and completion_key:
        forms.append("prompt")
    elif (prompt_key or completion_key) and not forms:
        lost = "completion (or answer)" if prompt_key else "prompt (or question)"
        raise DataError(f"{where}: {prompt_key or completion_key} without {lost}")
    if not forms:
        keys = ", ".join(map(str, row)) or "nothing"
        raise DataError(
            f"{where}: no content: give text, prompt and completion, or messages (found {keys})"
        )
    if len(forms) > 1:
        raise DataError(f"{where}: both {forms[0]} and {forms[1]}; a record has one form")
    content: dict[str, Any] = {}
    if forms == ["text"]:
        content["text"] = _string(present["text"], "text", where)
    elif forms == ["prompt"]:
        assert prompt_key
        assert completion_key
        prompt = _string(present[prompt_key], prompt_key, where)
        extra = present.get("input") if prompt_key == "instruction" else None
        content["prompt"] = f"{prompt}\n{_string(extra, 'input', where)}" if extra else prompt
        content["completion"] = _string(present[completion_key], completion_key, where)
    else:
        content["messages"] = _turns(present["messages"], where)
    subject = present.get("subject")
    for name, text in (("id", identifier), ("subject", str(subject or ""))):
        _whole(text, name, where)
    record = Record(identifier, None if subject is None else str(subject), **content)
    names = {prompt_key: "prompt", completion_key: "completion"}
    secrets = tuple(_secrets(present.get("secrets"), record, names, where))
    return Record(record.id, record.subject, **content, secrets=secrets)


def _string(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} must be text, not {type(value).__name__}")
    if not value.strip():
        raise DataError(f"{where}: {key} is empty")
    return _whole(value, key, where)


def _whole(text: str, key: str, where: str) -> str:
    """Refuse half a character: no file can hold it, and no digest be made of it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {key} holds half a character at position {error.start} (a lone surrogate, "
            f"\\u{ord(text[error.start]):04x}); write the whole one, or take it out"
        ) from None
    return text


def _turns(value: Any, where: str) -> tuple[dict[str, str], ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"{where}: messages must be a list of turns")
    turns = []
    for i, turn in enumerate(value):
        if not isinstance(turn, Mapping) or turn.get("role") not in _ROLES:
            known = ", ".join(_ROLES)
            raise DataError(f"{where}: messages.{i} needs a role among {known}")
        text = _string(turn.get("content"), f"messages.{i}.content", where)
        turns.append({"role": str(turn["role"]), "content": text})
    if not any(turn["role"] == "assistant" for turn in turns):
        raise DataError(f"{where}: messages without an assistant turn: there is nothing to learn")
    return tuple(turns)


def _secrets(
    value: Any, record: Record, names: Mapping[str | None, str], where: str
) -> Iterator[Secret]:
    if isinstance(value, str):  # a CSV cell
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise DataError(f"{where}: secrets is not a JSON list") from None
    for i, entry in enumerate(value or ()):
        at = f"{where}: secrets.{i}"
        if not isinstance(entry, Mapping) or not {"field", "start", "end"} <= set(entry):
            raise DataError(f"{at} needs field, start and end")
        name = names.get(entry["field"], str(entry["field"]))
        text = record.field(name)
        if text is None:
            raise DataError(f"{at}: the record has no field {entry['field']!r}")
        start, end = entry["start"], entry["end"]
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
            raise DataError(
                f"{at}: characters {start} to {end} are not inside {name}, which has {len(text)}"
            )
        yield Secret(name, start, end, str(entry.get("kind", "secret")))


def to_dataset(rows: Iterable[Located], source: str) -> tuple[Any, tuple[str, ...]]:
    """Check all rows and lay them out as a dataset.

    Args:
        rows: with their places.
        source: where they come from, for messages.

    Returns:
        (a `datasets.Dataset`, ids of the rows that repeat an earlier row's content).

    Raises:
        DataError: if there is no row, a row cannot be used, or ids are not one each.
    """
    import datasets

    places: dict[str, str] = {}
    counts: dict[str, int] = {}
    repeated: list[str] = []
    table: list[dict[str, Any]] = []
    given: bool | None = None
    for where, row in rows:
        record = record_of(row, where)
        has_id = row.get("id") is not None and str(row["id"]) != ""
        if given is not None and has_id != given:
            raise DataError(f"{where}: some rows have an id and some do not; give all or none")
        given = has_id
        content = content_id(record)
        counts[content] = counts.get(content, 0) + 1
        name = str(row["id"]) if has_id else content
        if counts[content] > 1:
            name = name if has_id else f"{content}#{counts[content]}"
            repeated.append(name)
        if name in places:
            raise DataError(f"{where}: the id {name!r} was given before ({places[name]})")
        places[name] = where
        table.append(
            {
                "id": name,
                "subject": record.subject,
                "text": record.text,
                "prompt": record.prompt,
                "completion": record.completion,
                "messages": list(record.messages) if record.messages else None,
                "secrets": [vars(secret) for secret in record.secrets],
            }
        )
    if not table:
        raise DataError(f"{source}: no records in it")
    value = datasets.Value
    turn = {"role": value("string"), "content": value("string")}
    secret = {
        "field": value("string"),
        "start": value("int64"),
        "end": value("int64"),
        "kind": value("string"),
    }
    features = datasets.Features(
        {
            **{key: value("string") for key in ("id", "subject", "text", "prompt", "completion")},
            "messages": datasets.List(turn),
            "secrets": datasets.List(secret),
        }
    )
    return datasets.Dataset.from_list(table, features=features), tuple(repeated)
