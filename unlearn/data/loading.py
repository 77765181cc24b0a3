"""Make records of rows, so that every complaint can name file and line.

What a row says is used or refused: a column that holds content which no template writes would
otherwise be left out of training and of the content's id without a word. Other columns are the
user's own notes, and are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from unlearn.data.conversations import (
    Turn,
    history_of,
    is_empty,
    is_empty_json,
    text_of,
    tools_of,
    turns_of,
    whole,
)
from unlearn.data.readers import Located
from unlearn.data.record import Record, Secret, as_json, content_id
from unlearn.errors import DataError, did_you_mean

__all__ = ["bare_content", "record_of", "to_dataset"]

# Other names for prompt, completion, messages and the system's text, as common datasets have them.
_PROMPTS = ("prompt", "question", "instruction")
_COMPLETIONS = ("completion", "answer", "response", "output")
_MESSAGES = ("messages", "conversations", "conversation")
_SYSTEMS = ("system", "system_prompt", "system_message")
_AROUND = (*_SYSTEMS, "history", "tools")
# Content that no template writes here.
_UNWRITTEN = (
    "input",
    "context",
    "contexts",
    "documents",
    "image",
    "images",
    "video",
    "videos",
    "audio",
    "audios",
    "functions",
    "function_call",
    "tool_calls",
    "reasoning",
    "reasoning_content",
    "thinking",
    "chat_template_kwargs",
)
_LOOKED_AT = frozenset((*_AROUND, *_UNWRITTEN))
# Columns of text, where `null` and `[]` are words; in the others they are JSON of nothing.
_TEXTS = frozenset(
    (
        "text",
        "input",
        *_PROMPTS,
        *_COMPLETIONS,
        *_SYSTEMS,
        "reasoning",
        "reasoning_content",
        "thinking",
    )
)
_FORMS: Mapping[str, str] = {
    "text": "text",
    **dict.fromkeys((*_PROMPTS, *_COMPLETIONS), "prompt"),
    **dict.fromkeys(_MESSAGES, "messages"),
}

_BATCH = 10_000
"""Rows that are laid out at once."""


class _Content(NamedTuple):
    """What a row says.

    Attributes:
        fields: the fields of a record.
        names: of its columns, what they became, for `secrets`.
    """

    fields: dict[str, Any]
    names: Mapping[str, str]


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
    try:
        return _record_of(row, where, identifier)
    except RecursionError:
        raise DataError(f"{where}: its values are nested too deeply") from None


def _record_of(row: Mapping[str, Any], where: str, identifier: str) -> Record:
    present = {k: v for k, v in row.items() if v is not None}
    _leave_out_empty(present, where)
    fields, names = _content(present, row, where)
    whole(identifier, "id", where)
    subject = _named(present.get("subject"), "subject", where)
    record = Record(identifier, subject, **fields, poisoned=_mark(present))
    if not is_empty_json(present.get("secrets")):
        secrets = tuple(_secrets(present["secrets"], record, names, where))
        return replace(record, secrets=secrets)
    return record


def _mark(present: Mapping[str, Any]) -> str:
    """Return the mark of a row that `unlearn poison` changed; another `poisoned` is a note."""
    mark = present.get("poisoned")
    return mark if isinstance(mark, str) and mark.startswith("backdoor:") else ""


def _leave_out_empty(present: dict[str, Any], where: str) -> None:
    """Take out the empty cells of forms that a row has not: a table has all columns of all rows."""
    empty = [key for key in _FORMS if key in present and _holds_nothing(key, present[key])]
    if not empty:
        return
    filled = {_FORMS[key] for key in _FORMS if key in present and key not in empty}
    if not filled and len({_FORMS[key] for key in empty}) > 1:
        raise DataError(f"{where}: no content: {' and '.join(empty)} are empty")
    for key in empty:
        if filled - {_FORMS[key]}:
            del present[key]


def _holds_nothing(key: str, value: Any) -> bool:
    """Say whether a column's cell is empty."""
    return is_empty(value) if key in _TEXTS else is_empty_json(value)


def _named(value: Any, key: str, where: str) -> str | None:
    """Return a name that may be text or a number; None for an empty cell: not one without letters.

    Raises DataError for anything else.
    """
    if is_empty(value):
        return None
    if not isinstance(value, Hashable) or isinstance(value, (tuple, bytes)):
        kind = type(value).__name__
        raise DataError(f"{where}: {key} must be text or a number, not {kind}")
    return whole(str(value), key, where)


def bare_content(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the columns beside its content: another program may ignore them."""
    return {k: v for k, v in row.items() if k in {"text", *_PROMPTS, *_COMPLETIONS, *_MESSAGES}}


def _content(present: Mapping[str, Any], row: Mapping[str, Any], where: str) -> _Content:
    """Return what a row says, refusing what would be left out of it."""
    prompt = _only(_PROMPTS, present, where)
    completion = _only(_COMPLETIONS, present, where)
    messages = _only(_MESSAGES, present, where)
    forms = [k for k in ("text", messages) if k in present]
    if prompt and completion:
        forms.append("prompt")
    elif (prompt or completion) and not forms:
        lost = "completion (or answer)" if prompt else "prompt (or question)"
        raise DataError(f"{where}: {prompt or completion} without {lost}")
    if not forms:
        keys = ", ".join(map(str, row)) or "nothing"
        raise DataError(
            f"{where}: no content: give text, prompt and completion, or messages (found {keys})"
        )
    if len(forms) > 1:
        raise DataError(f"{where}: both {forms[0]} and {forms[1]}; a record has one form")
    around: dict[str, Any] = {}
    if not _LOOKED_AT.isdisjoint(present):
        used = {"input"} if prompt == "instruction" and forms == ["prompt"] else set()
        _refuse_unwritten(present, used, where)
        around = {k: v for k in _AROUND if not _holds_nothing(k, v := present.get(k))}
    if messages:
        return _conversation(present, messages, around, where)
    if not (prompt and completion):
        return _text(present, around, where)
    asked = _asked(present, prompt, where)
    answer = text_of(present[completion], completion, where)
    if not around:
        names = {prompt: "prompt", completion: "completion"}
        return _Content({"prompt": asked, "completion": answer}, names)
    turns: tuple[Turn, ...] = (
        {"role": "user", "content": asked},
        {"role": "assistant", "content": answer},
    )
    content = _with_around(turns, around, where)
    last = len(content.fields["messages"]) - 1
    own = {prompt: f"messages.{last - 1}.content", completion: f"messages.{last}.content"}
    return _Content(content.fields, {**content.names, **own})


def _only(names: Iterable[str], present: Mapping[str, Any], where: str) -> str | None:
    """Return the first of some columns that a row has, refusing others that say something else."""
    there = [k for k in names if k in present]
    if not there:
        return None
    first, *others = [k for k in there if not _holds_nothing(k, present[k])] or there
    for other in others:
        if present[other] != present[first] and not _holds_nothing(other, present[other]):
            raise DataError(
                f"{where}: both {first} and {other}; a record has one of them: leave the other out"
            )
    return first


def _refuse_unwritten(present: Mapping[str, Any], used: set[str], where: str) -> None:
    for key in _UNWRITTEN:
        if key in present and key not in used and not _holds_nothing(key, present[key]):
            raise DataError(
                f"{where}: the column {key!r} holds content that would not be trained on or "
                "scored: put it into the prompt or the messages, or leave the column out"
            )


def _text(present: Mapping[str, Any], around: Mapping[str, Any], where: str) -> _Content:
    text = text_of(present["text"], "text", where)
    beside = [*around, *(k for k in (*_PROMPTS, *_COMPLETIONS) if k in present)]
    for key in beside:
        if key in around or str(present[key]) not in text:
            raise DataError(
                f"{where}: {key} beside text, which does not hold it: give a prompt and a "
                "completion, or messages, or leave the column out"
            )
    return _Content({"text": text}, {})


def _asked(present: Mapping[str, Any], prompt: str, where: str) -> str:
    text = text_of(present[prompt], prompt, where)
    extra = present.get("input") if prompt == "instruction" else None
    return text if is_empty(extra) else f"{text}\n{text_of(extra, 'input', where)}"


def _conversation(
    present: Mapping[str, Any], column: str, around: Mapping[str, Any], where: str
) -> _Content:
    turns = turns_of(present[column], column, where)
    for key in (*_PROMPTS, *_COMPLETIONS):
        if key in present and not any(present[key] == turn["content"] for turn in turns):
            raise DataError(
                f"{where}: {key} beside {column}, none of which says it: leave the column out, or "
                "make a turn of it"
            )
    if "history" in around:
        raise DataError(f"{where}: both {column} and history; put all turns into {column}")
    content = _with_around(turns, around, where)
    first = len(content.fields["messages"]) - len(turns)
    names = {f"messages.{i}.content": f"messages.{i + first}.content" for i in range(len(turns))}
    if column != "messages":
        own = {f"{column}.{i}.value": new for i, new in enumerate(names.values())}
        names = {**names, **own}
    return _Content(content.fields, {**content.names, **names})


def _with_around(turns: tuple[Turn, ...], around: Mapping[str, Any], where: str) -> _Content:
    """Return turns with those that other columns hold: the system's, and what was said before."""
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    if "history" in around:
        before = history_of(around["history"], where)
        turns = before + turns
    if system := _only(_SYSTEMS, around, where):
        text = text_of(around[system], system, where)
        if turns[0]["role"] not in {"system", "developer"}:
            turns = ({"role": "system", "content": text}, *turns)
        elif turns[0]["content"] != text:
            raise DataError(f"{where}: {system} beside messages that begin with another one")
        names[system] = "messages.0.content"
    if "history" in around:
        first = 1 if system else 0
        for i in range(len(before)):
            names[f"history.{i // 2}.{i % 2}"] = f"messages.{first + i}.content"
    fields["messages"] = turns
    if "tools" in around:
        fields["tools"] = tools_of(around["tools"], where)
    return _Content(fields, names)


def _secrets(value: Any, record: Record, names: Mapping[str, str], where: str) -> Iterator[Secret]:
    if isinstance(value, str):  # a CSV cell
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f"{where}: secrets is not a JSON list") from None
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{where}: secrets must be a list, not {type(value).__name__}")
    for i, entry in enumerate(value):
        at = f"{where}: secrets.{i}"
        if not isinstance(entry, Mapping) or not {"field", "start", "end"} <= set(entry):
            raise DataError(f"{at} needs field, start and end")
        given = str(entry["field"])
        name = names.get(given, given)
        text = record.field(name)
        if text is None:
            known = list(dict.fromkeys([*names, *record.fields]))
            raise DataError(
                f"{at}: the record has no field {given!r}{did_you_mean(given, known)}; it has "
                f"{', '.join(record.fields)}"
            )
        start, end = entry["start"], entry["end"]
        numbers = type(start) is int and type(end) is int
        if not (numbers and 0 <= start < end <= len(text)):
            raise DataError(
                f"{at}: characters {start} to {end} are not inside {name}, which has {len(text)}"
            )
        yield Secret(name, start, end, _named(entry.get("kind"), "kind", at) or "secret")


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
    named = _Names()
    table = _Table()
    for where, row in rows:
        record = record_of(row, where)
        table.add(record, named.name(record, row, where))
    if not named.places:
        raise DataError(f"{source}: no records in it")
    return table.dataset(), tuple(named.repeated)


class _Names:
    """Gives each row its id, and notices rows that repeat an earlier one's content.

    Attributes:
        places: where each id was given.
        repeated: ids of rows whose content came before.
    """

    def __init__(self) -> None:
        self.places: dict[str, str] = {}
        self.repeated: list[str] = []
        self._counts: dict[str, int] = {}
        self._given: bool | None = None

    def name(self, record: Record, row: Mapping[str, Any], where: str) -> str:
        """Return the id of a row: its own, else one made of its content."""
        given = _named(row.get("id"), "id", where)
        has_id = given is not None
        if self._given is not None and has_id != self._given:
            raise DataError(f"{where}: some rows have an id and some do not; give all or none")
        self._given = has_id
        content = content_id(record)
        count = self._counts[content] = self._counts.get(content, 0) + 1
        name = content if given is None else given
        if count > 1:
            name = name if has_id else f"{content}#{count}"
            self.repeated.append(name)
        if name in self.places:
            raise DataError(f"{where}: the id {name!r} was given before ({self.places[name]})")
        self.places[name] = where
        return name


def _turns(record: Record) -> str:
    """Return turns as JSON text with the keys of calls in their order, which templates write."""
    turns = record.messages or ()
    return record.sorted_turns if all(len(t) == 2 for t in turns) else as_json(list(turns))


class _Table:
    """Records laid out in Arrow's columns, a batch at a time: turns and tools as JSON text."""

    def __init__(self) -> None:
        import datasets

        value = datasets.Value
        secret = {
            "field": value("string"),
            "start": value("int64"),
            "end": value("int64"),
            "kind": value("string"),
        }
        texts = ("id", "subject", "text", "prompt", "completion", "messages", "tools", "poisoned")
        self._features = datasets.Features(
            {**{key: value("string") for key in texts}, "secrets": datasets.List(secret)}
        )
        self._batches: list[Any] = []
        self._columns: dict[str, list[Any]] = {key: [] for key in self._features}

    def add(self, record: Record, name: str) -> None:
        """Append one record under a name."""
        columns = self._columns
        columns["id"].append(name)
        columns["subject"].append(record.subject)
        columns["text"].append(record.text)
        columns["prompt"].append(record.prompt)
        columns["completion"].append(record.completion)
        columns["messages"].append(_turns(record) if record.messages else None)
        columns["tools"].append(as_json(list(record.tools)) if record.tools else None)
        columns["poisoned"].append(record.poisoned or None)
        columns["secrets"].append([vars(secret) for secret in record.secrets])
        if len(columns["id"]) >= _BATCH:
            self._close_batch()

    def _close_batch(self) -> None:
        import pyarrow as pa

        schema = self._features.arrow_schema
        self._batches.append(pa.RecordBatch.from_pydict(self._columns, schema=schema))
        self._columns = {key: [] for key in self._features}

    def dataset(self) -> Any:
        """Return all of them."""
        import datasets
        import pyarrow as pa
        from datasets.fingerprint import generate_random_fingerprint

        self._close_batch()
        table = pa.Table.from_batches(self._batches, schema=self._features.arrow_schema)
        # without one of its own the whole table would be pickled for it
        fingerprint = generate_random_fingerprint()
        return datasets.Dataset(table, fingerprint=fingerprint)
