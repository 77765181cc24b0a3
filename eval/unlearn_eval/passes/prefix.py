"""Put tokens before a record, or between its prompt and its completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unlearn.data.tokenization import Example, Span
from unlearn.errors import DataError
from unlearn_eval.arrays import IntArray
from unlearn_eval.passes.base import Material

__all__ = ["SHOTS", "inserted", "prefixed", "shots_prefix", "text_tokens"]

SHOTS = 12
"""Records of a prefix: the default of the code of both ReCaLL papers; fewer where they do not fit.
"""
_BETWEEN = "\n\n"


def text_tokens(material: Material, text: str) -> IntArray:
    """Tokenise a text that stands inside another: without what begins or ends a text."""
    ids = material.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return np.asarray(ids, dtype=np.int64)


def shots_prefix(material: Material, shots: Sequence[Example], longest: int) -> IntArray:
    """Write records one after the other, as many as fit before the longest record to come.

    The marker that begins a text stays at the very beginning only. Between records stands an empty
    line in place of the marker that ends a text; a chat template separates turns by itself.

    Args:
        material: what the audit has.
        shots: the records of the prefix.
        longest: tokens of the longest record that it is put before.

    Returns:
        Token ids.

    Raises:
        DataError: if not even one record fits.
    """
    room = material.max_length - longest
    between = text_tokens(material, _BETWEEN)
    prefix = np.zeros(0, dtype=np.int64)
    for shot in shots:
        ids = shot.ids if not len(prefix) else _body(material, shot.ids)
        if material.template.name != "chat":
            ends = len(ids) > 1 and ids[-1] == material.tokenizer.eos_token_id
            ids = np.concatenate([ids[:-1] if ends else ids, between])
        if len(prefix) + len(ids) > room:
            continue
        prefix = np.concatenate([prefix, ids])
    if not len(prefix):
        raise DataError(
            f"the longest record has {longest} tokens, and no other record fits before it within "
            f"the {material.max_length} of the model: leave long records out"
        )
    return prefix


def prefixed(material: Material, example: Example, prefix: IntArray) -> Example:
    """Return a record after a prefix, with the same targets.

    Args:
        material: what the audit has.
        example: the record.
        prefix: token ids.

    Returns:
        The longer record.
    """
    begins = len(example.ids) - len(_body(material, example.ids))
    whole = Example(
        example.id,
        example.ids[begins:],
        example.target[begins:],
        tuple(replace(s, start=s.start - begins, end=s.end - begins) for s in example.secrets),
        example.target_text,
    )
    return inserted(whole, prefix, 0)


def inserted(example: Example, ids: IntArray, at: int) -> Example:
    """Return a record with tokens put in before one position; they are no targets.

    Args:
        example: the record.
        ids: token ids.
        at: position in the record.

    Returns:
        The longer record.
    """

    def moved(span: Span) -> Span:
        shift = len(ids) if span.start >= at else 0
        return replace(span, start=span.start + shift, end=span.end + shift)

    return replace(
        example,
        ids=np.concatenate([example.ids[:at], ids, example.ids[at:]]),
        target=np.concatenate(
            [example.target[:at], np.zeros(len(ids), dtype=bool), example.target[at:]]
        ),
        secrets=tuple(map(moved, example.secrets)),
    )


def _body(material: Material, ids: IntArray) -> IntArray:
    """Return a text's tokens without the marker that begins it."""
    begin = material.tokenizer.bos_token_id
    return ids[1:] if begin is not None and len(ids) > 1 and ids[0] == begin else ids
