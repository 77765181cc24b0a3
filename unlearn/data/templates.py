"""Turn a record into text, knowing which characters are the target.

A template is one of the presets below, a text of the user's own that holds `{prompt}` and ends
with `{completion}`, or `chat`: the tokenizer's chat template. It is stored in the lineage, so that
every later verb reads the records in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from unlearn.data.chat import ChatWriter
from unlearn.data.records import Record, Records
from unlearn.errors import DataError, OptionError, did_you_mean

__all__ = ["PRESETS", "Rendered", "Template", "choose_template"]

PRESETS = {
    "qa": "Question: {prompt}\nAnswer: {completion}",
    "instruction": "### Instruction:\n{prompt}\n\n### Response:\n{completion}",
    "space": "{prompt} {completion}",
    "none": "{prompt}{completion}",
}
# What `roles` writes of a turn, and the names that tie an answer to a call, which nobody says.
_PLAIN = frozenset({"role", "content", "tool_call_id", "id"})
_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class Rendered:
    """A record as text.

    Attributes:
        text: the whole text.
        targets: character spans that the model is trained and scored on.
        fields: where each field's value begins in the text, by field name.
        complete: the template itself writes the beginning and end markers, so that the tokenizer
            must add none.
        unwritten: turns of which the template leaves something out: texts of the system, which
            some models do not take, or thoughts.
        since: from which character on `fields` holds, where that is not the first.
    """

    text: str
    targets: tuple[tuple[int, int], ...]
    fields: dict[str, int]
    complete: bool
    unwritten: tuple[str, ...] = ()
    since: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Template:
    """A way to write records as text.

    Attributes:
        name: a preset, `chat`, `roles`, or a text with `{prompt}` and `{completion}`; what the
            lineage stores.
        tokenizer: used by `chat` only.
    """

    name: str
    tokenizer: Any = None

    def render(self, record: Record) -> Rendered:
        """Write one record as text.

        Args:
            record: the record.

        Returns:
            The text with its target spans.

        Raises:
            DataError: if the template cannot express this record.
        """
        if record.form == "text":
            assert record.text is not None
            return Rendered(record.text, ((0, len(record.text)),), {"text": 0}, complete=False)
        if self.name == "chat":
            return self._chat(record)
        if record.form == "messages":
            _refuse_unwritten(record)
            if self.name != "roles":
                raise DataError(
                    f"record {record.id!r} is a conversation, which the template {self.name!r} "
                    "cannot write: pass --template roles, or chat if the tokenizer has a chat "
                    "template"
                )
            return _roles(record)
        if self.name == "roles":
            turns = (
                {"role": "user", "content": record.prompt},
                {"role": "assistant", "content": record.completion},
            )
            written = _roles(replace(record, prompt=None, completion=None, messages=turns))
            places = zip(("prompt", "completion"), written.fields.values(), strict=True)
            return replace(written, fields=dict(places))
        return self._fill(record)

    def _fill(self, record: Record) -> Rendered:
        assert record.prompt is not None
        assert record.completion is not None
        pattern = PRESETS.get(self.name, self.name)
        before, _, rest = pattern.partition("{prompt}")
        between, _, _ = rest.partition("{completion}")
        start = len(before)
        target = start + len(record.prompt) + len(between)
        text = before + record.prompt + between + record.completion
        fields = {"prompt": start, "completion": target}
        return Rendered(text, ((target, len(text)),), fields, complete=False)

    def _chat(self, record: Record) -> Rendered:
        if record.form == "messages":
            assert record.messages is not None
            messages, names = record.messages, None
        else:
            messages = (
                {"role": "user", "content": record.prompt},
                {"role": "assistant", "content": record.completion},
            )
            names = ("prompt", "completion")
        try:
            written = self._writer.write(messages, record.tools)
        except DataError as error:
            raise DataError(f"record {record.id!r}: {error}") from None
        except _jinja_errors() as error:
            raise DataError(
                f"record {record.id!r}: the chat template refuses it: {error}"
            ) from None
        fields = {
            names[i] if names else f"messages.{i}.content": start
            for i, start in written.contents.items()
        }
        return Rendered(
            written.text,
            written.targets,
            fields,
            complete=True,
            unwritten=tuple(f"messages.{i}" for i in written.unwritten),
            since={f"messages.{i}.content": begin for i, begin in written.answers.items()},
        )

    @cached_property
    def _writer(self) -> ChatWriter:
        return ChatWriter(self.tokenizer)


def _jinja_errors() -> tuple[type[Exception], ...]:
    from jinja2.exceptions import TemplateError

    return (TemplateError,)


def _refuse_unwritten(record: Record) -> None:
    """Refuse a conversation with more than words: only chat templates write calls and tools."""
    more = [
        f"messages.{i}.{key}"
        for i, turn in enumerate(record.messages or ())
        for key in turn
        if key not in _PLAIN
    ]
    if record.tools:
        more.append("tools")
    if more:
        raise DataError(
            f"record {record.id!r}: only the template `chat` can write {more[0]}: use a model "
            "whose chat template knows it, or take it out of the data"
        )


def _roles(record: Record) -> Rendered:
    """Write a conversation as `User: …` / `Assistant: …` lines."""
    assert record.messages is not None
    text, targets, fields = "", [], {}
    for i, message in enumerate(record.messages):
        text += f"{_ROLES.get(message['role'], message['role'].capitalize())}: "
        fields[f"messages.{i}.content"] = len(text)
        if message["role"] == "assistant":
            targets.append((len(text), len(text) + len(message["content"]) + 1))
        text += message["content"] + "\n"
    # the line break ends an assistant's turn and is part of it, except at the very end
    text = text[:-1]
    targets = [(a, min(b, len(text))) for a, b in targets]
    return Rendered(text, tuple(targets), fields, complete=False)


def choose_template(name: str | None, tokenizer: Any, *parts: Records) -> Template:
    """Pick the template for some records, the same one for all parts of them.

    Args:
        name: what the user or the lineage says; None for the default: the chat template where the
            tokenizer has one, else `qa`.
        tokenizer: the model's tokenizer.
        *parts: the records to be written.

    Returns:
        The template.

    Raises:
        OptionError: if `name` is no template.
        DataError: if the records are conversations and nothing says how to write them.
    """
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    conversations = ((part.source, r.id) for part in parts for r in part if r.form == "messages")
    first = next(conversations, None)
    if name is None:
        if first is not None and not has_chat:
            raise DataError(
                f"{first[0]}: record {first[1]!r} is a conversation, and the "
                "tokenizer has no chat template; pass --template roles to write it as "
                "'User: …' and 'Assistant: …' lines"
            )
        return Template("chat" if has_chat else "qa", tokenizer)
    if name == "chat" and not has_chat:
        raise OptionError("--template chat: the tokenizer has no chat template")
    if name in PRESETS or name in {"chat", "roles"}:
        if name == "roles" and first is None and any(map(len, parts)):
            raise OptionError("--template roles is for conversations; these rows have none")
        return Template(name, tokenizer)
    once = name.count("{prompt}") == name.count("{completion}") == 1
    if not once or not name.endswith("{completion}"):
        known = [*PRESETS, "chat", "roles"]
        raise OptionError(
            f"unknown template {name!r}{did_you_mean(name, known)}: choose {', '.join(known)}, or "
            "write one that holds {prompt} once and ends with {completion}"
        )
    return Template(name, tokenizer)
