"""One record: its content, its id, and where its sensitive values are."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Form", "Record", "Secret", "content_id"]

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
    """

    id: str
    subject: str | None = None
    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    tools: tuple[dict[str, Any], ...] | None = None
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
            if self.tools:
                content["tools"] = list(self.tools)
        return unicodedata.normalize("NFC", json.dumps(content, ensure_ascii=False))

    @property
    def parts(self) -> tuple[str, ...]:
        """The texts that it has, in the order they are read: fields, or what each turn says."""
        turns = (turn["content"] for turn in self.messages or ())
        return tuple(part for part in (self.text, self.prompt, self.completion, *turns) if part)

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


def content_id(record: Record) -> str:
    """Return the id of a record without one: 16 hexadecimal digits of SHA-256 of its content."""
    return hashlib.sha256(record.canonical.encode()).hexdigest()[:16]
