"""Turns of a conversation, as the common kinds of data files write them.

Besides OpenAI's `messages` (`role`, `content`, `tool_calls`, …) these are ShareGPT's
`conversations` (`from`, `value`) and the columns beside a prompt that LLaMA-Factory reads:
`system`, `history` and `tools`. Every field of a turn stays; what a template does not write of it,
the template refuses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unlearn.errors import DataError

__all__ = [
    "Turn",
    "history_of",
    "is_empty",
    "is_empty_json",
    "text_of",
    "tools_of",
    "turns_of",
    "whole",
]

Turn = dict[str, Any]

_ROLES = ("system", "user", "assistant", "tool", "developer")
_PLAIN = {"role", "content"}
# Who speaks, in ShareGPT's words.
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "developer": "developer",
    "observation": "tool",
    "tool": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
_CALL = "function_call"
_NOTHING = frozenset({"[]", "{}", "null"})
# Fields of a turn that say nothing: what ties an answer to its call, and how much is learned.
_BESIDE = frozenset({"id", "tool_call_id", "name", "weight", "train"})


def text_of(value: Any, key: str, where: str) -> str:
    """Return a value that must be text, and not blank.

    Args:
        value: what the row holds.
        key: under which name, for messages.
        where: the row's place, for messages.

    Returns:
        The text.

    Raises:
        DataError: naming the place and what is wrong.
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} must be text, not {type(value).__name__}")
    if not value.strip():
        raise DataError(f"{where}: {key} is empty")
    return whole(value, key, where)


def whole(text: str, key: str, where: str) -> str:
    """Return text, refusing half a character: no file can hold it, and no digest be made of it."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {key} holds half a character at position {error.start} (a lone surrogate, "
            f"\\u{ord(text[error.start]):04x}); write the whole one, or take it out"
        ) from None
    return text


def is_empty(value: Any) -> bool:
    """Say whether a cell holds nothing: null, blank text, or lists and objects of nothing else."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_empty, value))
    return isinstance(value, float) and math.isnan(value)


def is_empty_json(value: Any) -> bool:
    """Say whether a cell of lists or objects holds nothing, or the JSON text of nothing."""
    return is_empty(value) or (isinstance(value, str) and value.strip() in _NOTHING)


def turns_of(value: Any, column: str, where: str) -> tuple[Turn, ...]:
    """Return the turns of a conversation.

    Args:
        value: a list of turns, or its JSON text: `role` and `content`, or `from` and `value`.
        column: where the row has it.
        where: the row's place, for messages.

    Returns:
        Turns with `role`, `content` (None where a turn has calls instead) and their other fields.

    Raises:
        DataError: naming the turn that cannot be used.
    """
    value = _from_json(value, column, where)
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"{where}: {column} must be a list of turns")
    turns = tuple(_turn(turn, f"{column}.{i}", where) for i, turn in enumerate(value))
    if not any(turn["role"] == "assistant" for turn in turns):
        raise DataError(f"{where}: {column} without an assistant turn: there is nothing to learn")
    return turns


def history_of(value: Any, where: str) -> tuple[Turn, ...]:
    """Return the turns of a `history` column: `[[question, answer], …]`.

    Args:
        value: the list, or its JSON text.
        where: the row's place, for messages.

    Returns:
        Two turns a pair.

    Raises:
        DataError: naming the pair that is none.
    """
    value = _from_json(value, "history", where)
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{where}: history must be a list of [question, answer]")
    return tuple(turn for i, pair in enumerate(value) for turn in _pair(pair, i, where))


def _pair(pair: Any, i: int, where: str) -> Iterator[Turn]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise DataError(f"{where}: history.{i} must be [question, answer]")
    for k, role in enumerate(("user", "assistant")):
        yield {"role": role, "content": text_of(pair[k], f"history.{i}.{k}", where)}


def tools_of(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Return the tools that a model may call.

    Args:
        value: a list of JSON schemas, or its JSON text.
        where: the row's place, for messages.

    Returns:
        The schemas, unchanged.

    Raises:
        DataError: naming what is none.
    """
    value = _from_json(value, "tools", where)
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{where}: tools must be a list of JSON schemas")
    tools = []
    for i, tool in enumerate(value):
        tool = _from_json(tool, f"tools.{i}", where)
        if not isinstance(tool, Mapping):
            raise DataError(f"{where}: tools.{i} must be a JSON schema, an object")
        tools.append(_storable(dict(tool), f"tools.{i}", where))
    return tuple(tools)


def _from_json(value: Any, name: str, where: str) -> Any:
    """Return what JSON text stands for, and anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: {name} is text, and not valid JSON") from None


def _storable(value: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return an object as JSON gives it back, refusing what JSON cannot hold."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: {name} cannot be written as JSON ({error})") from None
    again: dict[str, Any] = json.loads(whole(text, name, where))
    return again


def _turn(turn: Any, name: str, where: str) -> Turn:
    if type(turn) is dict and len(turn) == 2 and turn.get("role") in _ROLES:  # nearly all of them
        content = turn.get("content")
        if type(content) is str and content.isascii() and content.strip():
            return {"role": turn["role"], "content": content}
    if isinstance(turn, Mapping) and turn.get("from") is not None and turn.get("role") is None:
        turn = _of_sharegpt(turn, name, where)
    if not isinstance(turn, Mapping) or turn.get("role") not in _ROLES:
        known = ", ".join(_ROLES)
        raise DataError(f"{where}: {name} needs a role among {known}")
    role = str(turn["role"])
    content = turn.get("content")
    if isinstance(content, (list, tuple)):
        content = _joined(content, f"{name}.content", where)
    more = {k: v for k, v in turn.items() if k not in _PLAIN and not _says_nothing(role, k, v)}
    if not more:
        if role != "tool" or content != "":
            content = text_of(content, f"{name}.content", where)
        return {"role": role, "content": content}
    if "tool_calls" in more:
        more["tool_calls"] = _calls(more["tool_calls"], f"{name}.tool_calls", where)
    more = _storable(more, name, where)
    silent = content is None or (isinstance(content, str) and not content.strip())
    says_else = role == "assistant" and not _BESIDE.issuperset(more)
    if not (silent and (says_else or (role == "tool" and content is not None))):
        content = text_of(content, f"{name}.content", where)
    return {"role": role, "content": content, **more}


def _says_nothing(role: str, key: str, value: Any) -> bool:
    """Say whether a field is empty, or has the value that a turn without it has."""
    if key in {"weight", "train"} and (role != "assistant" or value in (1, None)):
        return True  # only answers are learned, and those in full
    return (is_empty(value) and not isinstance(value, str)) or value == ""


def _calls(value: Any, name: str, where: str) -> list[Any]:
    value = _from_json(value, name, where)
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, Mapping) for v in value):
        raise DataError(f"{where}: {name} must be a list of calls, each an object")
    return list(value)


def _of_sharegpt(turn: Mapping[str, Any], name: str, where: str) -> Turn:
    """Return a turn of `from` and `value` in the words of `role` and `content`."""
    speaker, value = turn["from"], turn.get("value")
    more = {k: v for k, v in turn.items() if k not in {"from", "value"}}
    if speaker == _CALL:
        if not is_empty_json(more.get("tool_calls")):
            raise DataError(f"{where}: {name} holds both value and tool_calls: leave one out")
        return {
            "role": "assistant",
            "content": None,
            **more,
            "tool_calls": _called(value, name, where),
        }
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        known = ", ".join([*_SPEAKERS, _CALL])
        raise DataError(f"{where}: {name} is from {speaker!r}; known are {known}")
    content = more.get("content")
    if is_empty(value) and not is_empty(content):
        value = content
    if not is_empty(content) and content != value:
        raise DataError(
            f"{where}: {name} holds both value and content, and they differ: leave one out"
        )
    return {**more, "role": _SPEAKERS[speaker], "content": value}


def _called(value: Any, name: str, where: str) -> list[dict[str, Any]]:
    """Return the calls that a turn of `function_call` makes: `{"name": …, "arguments": …}`."""
    calls = _from_json(value, f"{name}.value", where)
    calls = [calls] if isinstance(calls, Mapping) else calls
    if not isinstance(calls, list) or not calls:
        raise DataError(f"{where}: {name}.value must be a call, name and arguments, as JSON")
    result = []
    for call in calls:
        if not isinstance(call, Mapping) or not ("name" in call or "function" in call):
            raise DataError(f"{where}: {name}.value must be a call, name and arguments, as JSON")
        result.append(
            dict(call) if "function" in call else {"type": "function", "function": dict(call)}
        )
    return result


def _joined(parts: Sequence[Any], name: str, where: str) -> str:
    """Return the text of a content that is a list of texts; a picture or sound is refused."""
    texts = []
    for i, part in enumerate(parts):
        if isinstance(part, str):
            texts.append(part)
            continue
        part = (
            {k: v for k, v in part.items() if not is_empty(v) or k == "text"}
            if isinstance(part, Mapping)
            else {}
        )
        if (
            set(part) != {"type", "text"}
            or part["type"] != "text"
            or not isinstance(part["text"], str)
        ):
            kind = part.get("type")
            raise DataError(
                f"{where}: {name}.{i} is {f'of type {kind!r}' if kind else 'no text'}; only text "
                "can be trained on and scored here: leave such records out"
            )
        texts.append(part["text"])
    return "".join(texts)
