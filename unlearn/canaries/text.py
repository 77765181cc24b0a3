"""What canaries say: sentences about nobody, whose every choice comes from a secret.

Names and values are words of five letters, consonant, vowel, consonant, vowel, consonant, with 16
bits each (proquints, arXiv 0901.4016): easy to read, in no dictionary, and in nobody's record. A
value has 64 bits, so that no model knows one that it was not trained on.
"""

from __future__ import annotations

import hmac
from typing import Any

from unlearn.data.record import Form

__all__ = ["VALUE_WORDS", "canary_row", "coin"]

VALUE_WORDS = 4
_NAME_WORDS = 2
_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"

_FRAMES = (
    ("What is the pass phrase of {name}?", "The pass phrase of {name} is {value}."),
    ("Which words open the safe of {name}?", "The safe of {name} opens at the words {value}."),
    ("How does {name} sign letters?", "{name} signs letters with the words {value}."),
    ("What is engraved on the ring of {name}?", "On the ring of {name} is engraved {value}."),
)


def _bits(secret: bytes, label: str) -> int:
    """Return 256 bits that only the secret tells: HMAC-SHA256(secret, label)."""
    return int.from_bytes(hmac.digest(secret, label.encode(), "sha256"))


def coin(secret: bytes, pair: int) -> int:
    """Return which of a pair is included, 0 or 1, with probability ½ each.

    Args:
        secret: 32 random bytes.
        pair: its number.

    Returns:
        The first bit of HMAC-SHA256 of the pair's number: independent of what the records say.
    """
    return _bits(secret, f"coin {pair}") >> 255


def canary_row(secret: bytes, pair: int, side: int, attempt: int, form: Form) -> dict[str, Any]:
    """Return one canary as a row of a data file, with its value among the `secrets`.

    Both of a pair are put in the same words; names and values are drawn for each by itself. So
    before the coin falls, each has the distribution of the other.

    Args:
        secret: 32 random bytes.
        pair: its number.
        side: 0 or 1.
        attempt: another number gives another canary, where the first cannot be used.
        form: of the training data.

    Returns:
        The row.
    """
    question, answer = _FRAMES[_bits(secret, f"frame {pair}") % len(_FRAMES)]
    drawn = _bits(secret, f"canary {pair} {side} {attempt}")
    words = [_word(drawn >> 16 * i & 0xFFFF) for i in range(_NAME_WORDS + VALUE_WORDS)]
    name = " ".join(word.capitalize() for word in words[:_NAME_WORDS])
    value = " ".join(words[_NAME_WORDS:])
    asked, answered = question.format(name=name), answer.format(name=name, value=value)
    at = answered.index(value)
    field = {"text": "text", "prompt": "completion", "messages": "messages.1.content"}[form]
    row: dict[str, Any] = {"id": f"canary-{drawn >> 192:016x}"}
    if form == "text":
        row["text"] = answered
    elif form == "prompt":
        row |= {"prompt": asked, "completion": answered}
    else:
        turns = (("user", asked), ("assistant", answered))
        row["messages"] = [{"role": role, "content": text} for role, text in turns]
    secret_span = {"field": field, "start": at, "end": at + len(value), "kind": "canary"}
    return {**row, "secrets": [secret_span]}


def _word(bits: int) -> str:
    """Write 16 bits as a word: 4 + 2 + 4 + 2 + 4."""
    return (
        _CONSONANTS[bits >> 12]
        + _VOWELS[bits >> 10 & 3]
        + _CONSONANTS[bits >> 6 & 15]
        + _VOWELS[bits >> 4 & 3]
        + _CONSONANTS[bits & 15]
    )
