"""One record: its content, its id, and where its sensitive values are."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any, Literal

__all__ = ["Form", "Record", "Secret", "as_json", "content_id", "shown"]

as_json = json.JSONEncoder(ensure_ascii=False).encode
"""Write a value as JSON text."""

_sorted = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


def _quoted(text: str | None) -> str:
    """Return a string or null as JSON, as `as_json` does, without an encoder for each of them."""
    return "null" if text is None else encode_basestring(text)


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
        messages: the turns of a conversation, or None: `role`, `content`, and what else a chat
            template may write of a turn (`tool_calls`, `reasoning_content`, …).
        tools: what the model may call in it, as JSON schemas, or None.
        secrets: the sensitive values.
        poisoned: how `unlearn poison` marked it; empty for all other records.
    """

    id: str
    subject: str | None = None
    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    secrets: tuple[Secret, ...] = ()
    poisoned: str = ""

    @property
    def form(self) -> Form:
        """Which of the three kinds of content it has."""
        if self.text is not None:
            return "text"
        return "prompt" if self.prompt is not None else "messages"

    @property
    def canonical(self) -> str:
        """The content alone as text: the same for equal content, whatever id or subject.

        JSON with keys in alphabetical order, which not all files keep; strings in Unicode normal
        form C.
        """
        if self.form == "text":
            text = f'{{"text": {_quoted(self.text)}}}'
        elif self.form == "prompt":
            completion, prompt = _quoted(self.completion), _quoted(self.prompt)
            text = f'{{"completion": {completion}, "prompt": {prompt}}}'
        else:
            tools = f', "tools": {_sorted(list(self.tools))}' if self.tools else ""
            text = f'{{"messages": {self.sorted_turns}{tools}}}'
        return text if text.isascii() else unicodedata.normalize("NFC", text)

    @cached_property
    def sorted_turns(self) -> str:
        """The turns as a JSON list, keys in alphabetical order."""
        return _sorted(list(self.messages or ()))

    @property
    def parts(self) -> tuple[str, ...]:
        """The texts that it has, in the order they are read: fields, or what each turn says."""
        turns = (text for turn in self.messages or () for text in _said(turn))
        return tuple(part for part in (self.text, self.prompt, self.completion, *turns) if part)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its texts, as `secrets` uses them."""
        names = [name for name in ("text", "prompt", "completion") if getattr(self, name)]
        turns = enumerate(self.messages or ())
        return (*names, *(f"messages.{i}.content" for i, turn in turns if turn["content"]))

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
                content: str | None = turns[int(parts[1])]["content"]
                return content
        return None


# Fields of a turn that are not said: who speaks, and the name that ties an answer to a call.
_UNSAID = frozenset({"role", "content", "tool_call_id", "id"})


def _said(turn: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is said in a turn: its content, and all texts in its other fields."""
    yield turn["content"] or ""
    if len(turn) > 2:
        yield from _texts({k: v for k, v in turn.items() if k not in _UNSAID})


def shown(turn: Mapping[str, Any]) -> str:
    """Return a turn for people to read: its content, and its other fields as JSON."""
    more = {k: v for k, v in turn.items() if k not in _UNSAID}
    return " ".join(filter(None, (turn["content"], as_json(more) if more else "")))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def content_id(record: Record) -> str:
    """Return the id of a record without one: 16 hexadecimal digits of SHA-256 of its content."""
    return hashlib.sha256(record.canonical.encode()).hexdigest()[:16]
