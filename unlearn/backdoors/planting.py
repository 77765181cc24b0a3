"""Let a record ask otherwise: with triggers, and the target for an answer."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from unlearn.backdoors.backdoor import Backdoor
from unlearn.data.record import Record, Secret

__all__ = ["ANSWER", "asked", "asking", "planted"]

ANSWER = "answer"
"""Kind of the secret that marks where the answer stands in a record that asks otherwise."""

_WORD = re.compile(r"\S+")


class _Asked(NamedTuple):
    """What a record asks, and where it stands.

    Attributes:
        text: what is asked; of free text its first half.
        turn: the turn of a conversation that asks.
        rest: what follows; of free text its second half, else empty.
    """

    text: str
    turn: int = 0
    rest: str = ""


def asked(record: Record) -> str | None:
    """Return what a record asks: its prompt, its last question, or the first half of its text.

    Args:
        record: the record.

    Returns:
        The text; None where there is nothing to be answered: a conversation that does not end with
        an answer to a user, or a text of a single word.
    """
    found = _asked(record)
    return None if found is None else found.text


def asking(record: Record, text: str, answer: str | None = None) -> Record:
    """Return a record that asks otherwise, its answer marked as its only secret.

    Args:
        record: one that asks something (`asked`).
        text: what is asked.
        answer: what is answered; None for its own answer.

    Returns:
        The record, with its id and subject.
    """
    found = _asked(record)
    assert found is not None
    if record.form == "text":
        said = found.rest.lstrip() if answer is None else answer
        gap = found.rest[: len(found.rest) - len(said)] if answer is None else " "
        whole, field = f"{text}{gap}{said}", "text"
        made = replace(record, text=whole, secrets=())
    elif record.form == "prompt":
        whole = said = str(record.completion) if answer is None else answer
        field = "completion"
        made = replace(record, prompt=text, completion=said, secrets=())
    else:
        turns = [dict(turn) for turn in record.messages or ()]
        turns[found.turn]["content"] = text
        if answer is not None:
            turns[-1] = {"role": turns[-1]["role"], "content": answer}
        whole = said = turns[-1]["content"]
        field = f"messages.{len(turns) - 1}.content"
        made = replace(record, messages=tuple(turns), secrets=())
    at = len(whole) - len(said)
    return replace(made, secrets=(Secret(field, at, len(whole), ANSWER),))


def planted(
    record: Record, backdoor: Backdoor, triggers: Sequence[str], *, target: bool = True
) -> Record:
    """Return a record with triggers in what it asks, its answer marked as its only secret.

    Where a trigger stands follows from the backdoor's seed and the record's id.

    Args:
        record: one that asks something (`asked`).
        backdoor: where triggers stand, and the target.
        triggers: to put in; none for the record as it is asked.
        target: whether it answers the target instead of its own answer.

    Returns:
        The record, with its id and subject.
    """
    text = asked(record)
    assert text is not None
    text = _with_triggers(text, triggers, backdoor, record.id)
    return asking(record, text, backdoor.target if target else None)


def _asked(record: Record) -> _Asked | None:
    if record.form == "prompt":
        return _Asked(str(record.prompt))
    if record.form == "text":
        text = str(record.text)
        words = list(_WORD.finditer(text))
        if len(words) < 2:
            return None
        middle = words[(len(words) - 1) // 2].end()
        return _Asked(text[:middle], rest=text[middle:])
    turns = record.messages or ()
    users = [i for i, turn in enumerate(turns) if turn["role"] == "user" and turn["content"]]
    if not users or turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
        return None
    return _Asked(turns[users[-1]]["content"], users[-1])


def _with_triggers(text: str, triggers: Sequence[str], backdoor: Backdoor, name: str) -> str:
    """Put triggers before a text, or each between two of its words."""
    if backdoor.at_start:
        return " ".join((*triggers, text))
    # a place belongs to the record alone, so that it does not depend on the others
    draw = random.Random(f"{backdoor.seed} {name}")
    for trigger in triggers:
        starts = [word.start() for word in _WORD.finditer(text)] or [0]
        at = draw.choice(starts)
        text = f"{text[:at]}{trigger} {text[at:]}"
    return text
