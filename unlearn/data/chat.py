"""Where each turn of a conversation stands in the text that a chat template writes.

Looking for an answer in the finished text can find it in the question, in the header of a turn or
in the marker that ends it. So the conversation is written a second time with a mark in place of
each content: what lies between the marks is the template's own, and the real text must be exactly
that with the contents put back. Templates that mark the answer themselves, with `{% generation %}`,
are taken at their word.
"""

from __future__ import annotations

import bisect
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unlearn.errors import DataError

__all__ = ["ChatWriter", "WrittenChat"]

Message = Mapping[str, Any]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# What the model thought, inside the content of its turn: (before, thought, between, answer).
_THOUGHT = re.compile(r"(\s*<think>)(.*?)(</think>\s*)(.*)", re.DOTALL)
_SHAPES = 256
_PLAIN = frozenset({"role", "content"})
# Names of a call and of its answer, which tie the two together: not what anybody says.
_BOOKKEEPING = frozenset({"tool_call_id", "id"})


@dataclass(frozen=True)
class WrittenChat:
    """A conversation as text.

    Attributes:
        text: the whole text.
        targets: for each turn of the assistant the span [start, end) of what the model says in it,
            with the marker that ends the turn.
        contents: where the content of each turn begins, by its position; of what the template
            leaves out, nothing. It holds from the answer on where a thought comes first.
        answers: of turns with a thought, the first character of the content that is the answer's.
        unwritten: turns of the system, and of thoughts, that the template leaves out, by position.
    """

    text: str
    targets: tuple[tuple[int, int], ...]
    contents: Mapping[int, int]
    answers: Mapping[int, int] = field(default_factory=dict)
    unwritten: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Part:
    """A stretch of a content that is marked as a whole: all of it, a thought, or an answer."""

    turn: int
    begin: int
    text: str


@dataclass(frozen=True)
class _Skeleton:
    """What a template writes around the contents of conversations of one shape.

    Attributes:
        literals: the template's own text before, between and behind the marks.
        order: which part each mark stands for, as they follow each other.
        spans: of each assistant turn, in the text with the marks.
        marks: where each mark begins in that text.
    """

    literals: tuple[str, ...]
    order: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    marks: tuple[int, ...]


class ChatWriter:
    """Writes conversations with a tokenizer's chat template.

    Args:
        tokenizer: it must have a chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._skeletons: dict[str, _Skeleton] = {}

    def write(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> WrittenChat:
        """Write one conversation, and find what the model says in it.

        `messages` are turns with `role`, `content` and what else the template knows; `tools` is
        what the model may call, as JSON schemas.

        Raises DataError if the template leaves out a turn, a field or the tools, or what it writes
        cannot be told from its own words.
        """
        tools = list(tools) if tools else None
        parts = [part for i, turn in enumerate(messages) for part in _parts(i, turn)]
        skeleton = self._skeleton(messages, tools, parts)
        text = self._apply(messages, tools)
        places = _fit(text, skeleton, parts)
        if places is None:
            raise DataError(
                "the chat template changes what the turns say, so that the answers cannot be told "
                "from its own words; use --template roles"
            )
        contents = {}
        for number, (start, variant) in zip(skeleton.order, places, strict=True):
            part = parts[number]
            # of a content that the template trims, the first character stands before its place
            contents[part.turn] = start - part.begin - part.text.find(variant)
        targets = self._marked(messages, tools)
        if targets is None:
            targets = [
                (_real(start, skeleton, places), _real(end, skeleton, places))
                for start, end in skeleton.spans
            ]
        if any(start >= end for start, end in targets):
            raise DataError("the chat template writes nothing of what the assistant says")
        left_out = set(range(len(parts))) - set(skeleton.order)
        unwritten = tuple(sorted({parts[number].turn for number in left_out}))
        answers = {part.turn: part.begin for part in parts if part.begin}
        return WrittenChat(text, tuple(targets), contents, answers, unwritten)

    def _apply(self, messages: Sequence[Message], tools: Any, *, generate: bool = False) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(turn) for turn in messages],
                tools=tools,
                tokenize=False,
                add_generation_prompt=generate,
            )
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            # of a field that holds something else than the template expects
            raise DataError(f"the chat template cannot write it: {error}") from None
        return text

    def _marked(self, messages: Sequence[Message], tools: Any) -> list[tuple[int, int]] | None:
        """Return the spans that the template itself marks as generated, if it marks any."""
        template = self._tokenizer.get_chat_template(tools=tools)
        if not _GENERATION.search(template):
            return None
        from transformers.utils.chat_template_utils import render_jinja_template

        _, (spans,) = render_jinja_template(
            [[dict(turn) for turn in messages]],
            tools=tools,
            chat_template=template,
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        if not spans:
            raise DataError("the chat template marks nothing in it as generated")
        return [(start, end) for start, end in spans]

    def _skeleton(
        self, messages: Sequence[Message], tools: Any, parts: Sequence[_Part]
    ) -> _Skeleton:
        """Return what the template writes around contents; made once for each shape."""
        shape = json.dumps([_shape(messages), tools], sort_keys=True, default=str)
        if shape not in self._skeletons:
            if len(self._skeletons) >= _SHAPES:  # records with calls differ in shape, each of them
                self._skeletons.clear()
            self._skeletons[shape] = self._make(messages, tools, parts)
        return self._skeletons[shape]

    def _make(self, messages: Sequence[Message], tools: Any, parts: Sequence[_Part]) -> _Skeleton:
        self._check_used(messages, tools)
        marks = [_mark(number) for number in range(len(parts))]
        marked = _with_marks(messages, parts, marks)
        text = self._apply(marked, tools)
        at = {}
        for number, mark in enumerate(marks):
            if text.count(mark) > 1:
                raise DataError(f"the chat template writes turn {parts[number].turn} twice")
            if mark in text:
                at[number] = text.index(mark)
        own = [[n for n, part in enumerate(parts) if part.turn == i] for i in range(len(messages))]
        for i, numbers in enumerate(own):
            if numbers and numbers[-1] not in at and messages[i]["role"] != "system":
                raise DataError(
                    f"the chat template leaves out turn {i}, of the {messages[i]['role']}; use "
                    "--template roles, or take the turn out of the data"
                )
        order = sorted(at, key=lambda number: at[number])
        edges = [0, *(e for n in order for e in (at[n], at[n] + len(marks[n]))), len(text)]
        spans: list[tuple[int, int]] = []
        plain = ""  # what ended the last turn that says nothing but its content
        for i, turn in enumerate(messages):
            if turn["role"] != "assistant":
                continue
            said = [marks[n] for n in own[i] if n in at]
            middle = len(said) == 1 and i < len(messages) - 1 and not _more(turn)
            end = at[own[i][-1]] + len(said[-1]) if said else 0
            if middle and plain and text.startswith(plain, end):
                spans.append((at[own[i][-1]], end + len(plain)))
                continue
            spans.append(self._span(marked, tools, i, text, said))
            if middle:
                plain = text[end : spans[-1][1]]
        return _Skeleton(
            tuple(text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)),
            tuple(order),
            tuple(spans),
            tuple(at[n] for n in order),
        )

    def _span(
        self, marked: Sequence[Message], tools: Any, i: int, text: str, marks: Sequence[str]
    ) -> tuple[int, int]:
        """Return the span of turn i in the text with marks: what is said, and its end marker."""
        more = _more(marked[i])
        start = text.index(marks[0]) if marks else None
        if start is None or more or len(marks) > 1:
            before = self._apply(marked[:i], tools, generate=True) if i else ""
            if before and text.startswith(before):
                start = len(before)
        if start is None:
            raise DataError(
                f"where turn {i}, which has no content, begins cannot be told from the chat "
                "template; use --template roles"
            )
        upto = self._apply(marked[: i + 1], tools)
        if not marks:  # calls alone: all that this turn adds
            return start, start + len(_common(text[start:], upto[start:].rstrip()))
        end = text.index(marks[-1]) + len(marks[-1])
        tail = upto.partition(marks[-1])[2]
        if more:
            return start, end + len(_common(text[end:], tail.rstrip()))
        following = self._with_another(marked[: i + 1], tools).partition(marks[-1])[2]
        last = i == len(marked) - 1
        return start, end + len(_end_marker(text[end:], tail, following, last=last))

    def _with_another(self, marked: Sequence[Message], tools: Any) -> str:
        """Write a conversation with one more question, or nothing where the template refuses it."""
        try:
            return self._apply([*marked, {"role": "user", "content": "next"}], tools)
        except Exception:  # whatever error a template raises, in words of its own
            return ""

    def _check_used(self, messages: Sequence[Message], tools: Any) -> None:
        """Refuse a field that the template does not write: the model would never see it."""
        whole = self._apply(messages, tools)
        if tools and self._apply(messages, None) == whole:
            raise DataError(
                "the chat template does not write the tools of the record: take the column out of "
                "the data, or use a model whose template knows tools"
            )
        for i, turn in enumerate(messages):
            for name in set(turn) - _PLAIN - _BOOKKEEPING:
                bare = {key: value for key, value in turn.items() if key != name}
                try:
                    unused = self._apply([*messages[:i], bare, *messages[i + 1 :]], tools) == whole
                except Exception:  # the template cannot do without it
                    unused = False
                if unused:
                    raise DataError(
                        f"the chat template does not write messages.{i}.{name}: take the field out "
                        "of the data, or use a model whose template knows it"
                    )


def _parts(i: int, turn: Message) -> Iterator[_Part]:
    """Yield what is marked of a turn: its content, or the thought and the answer in it."""
    content = turn.get("content") or ""
    thought = _THOUGHT.fullmatch(content) if turn["role"] == "assistant" else None
    if thought:
        yield _Part(i, thought.start(2), thought[2])
        yield _Part(i, thought.start(4), thought[4])
    elif content:
        yield _Part(i, 0, content)


def _with_marks(
    messages: Sequence[Message], parts: Sequence[_Part], marks: Sequence[str]
) -> list[dict[str, Any]]:
    marked = [dict(turn) for turn in messages]
    for part, mark in reversed(list(zip(parts, marks, strict=True))):
        content = marked[part.turn]["content"]
        end = part.begin + len(part.text)
        marked[part.turn]["content"] = content[: part.begin] + mark + content[end:]
    return marked


def _more(turn: Message) -> bool:
    """Say whether a turn has more than its content: thoughts before it, or calls behind."""
    return bool(set(turn) - _PLAIN - _BOOKKEEPING)


def _shape(messages: Sequence[Message]) -> list[Any]:
    """Return all of a conversation but what is marked in it."""
    return [
        [
            {key: value for key, value in turn.items() if key != "content"},
            len(list(_parts(i, turn))),
        ]
        for i, turn in enumerate(messages)
    ]


def _variants(text: str) -> list[str]:
    """Return the forms in which templates write a content: as it is, or trimmed."""
    return list(dict.fromkeys((text, text.strip(), text.lstrip(), text.rstrip(), text.strip("\n"))))


def _end_marker(behind: str, tail: str, following: str, *, last: bool) -> str:
    """Return what ends a turn: words behind it that stand there whatever comes next.

    At the end of a conversation a template may write more than behind any turn, and behind a turn
    in the middle comes the header of the next one: the marker is what both begin with, in whole
    words. Where they share none, a template ends only whole conversations: its last turn has the
    first word of what follows.

    `behind` follows the turn where it stands, `tail` at the end of a conversation, `following`
    before another question (empty where that is not known); `last` says that no turn follows.
    """
    words = list(itertools.accumulate(re.findall(r"\s*\S+", tail)))
    shared = [word for word in words if following.startswith(word)]
    if not shared and (last or not following):
        shared = words[:1]
    return next((word for word in reversed(shared) if behind.startswith(word)), "")


def _fit(text: str, skeleton: _Skeleton, parts: Sequence[_Part]) -> list[tuple[int, str]] | None:
    """Return where each part stands in the real text and in which form; None where it does not."""
    first, *literals = skeleton.literals
    if not text.startswith(first):
        return None
    forms = [_variants(parts[number].text) for number in skeleton.order]
    places: list[tuple[int, str]] = []
    at, tried = [len(first)], [0]
    while len(places) < len(forms) or at[-1] != len(text):
        mark = len(places)
        rest = forms[mark][tried[-1] :] if mark < len(forms) else []
        for variant in rest:
            tried[-1] += 1
            end = at[-1] + len(variant)
            if text.startswith(variant, at[-1]) and text.startswith(literals[mark], end):
                places.append((at[-1], variant))
                at.append(end + len(literals[mark]))
                tried.append(0)
                break
        else:  # no form fits here: take another one of the part before
            if not places:
                return None
            places.pop()
            at.pop()
            tried.pop()
    return places


def _real(at: int, skeleton: _Skeleton, places: Sequence[tuple[int, str]]) -> int:
    """Return the place in the real text of a place beside the marks."""
    mark = bisect.bisect_left(skeleton.marks, at) - 1  # the last one that begins before it
    if mark < 0:
        return at
    start, variant = places[mark]
    end = skeleton.marks[mark] + len(_mark(skeleton.order[mark]))
    return start + len(variant) + at - end


def _mark(number: int) -> str:
    """Return letters and digits that no template changes and no conversation holds."""
    return f"qZ{number}Xj{number}Vw"


def _common(text: str, other: str) -> str:
    """Return what both begin with."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    return "".join(a for a, _ in pairs)
