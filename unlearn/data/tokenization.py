"""Tokenise records, and put them into batches.

The attention mask comes from the lengths, never from comparing ids with the padding token: a
turn-end token that doubles as padding stays visible to attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn.data.records import Record
from unlearn.data.templates import Template
from unlearn.errors import DataError

__all__ = ["Example", "Span", "encode"]


@dataclass(frozen=True)
class Span:
    """Tokens [start, end) of an example that hold a sensitive value of some kind."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Example:
    """A record as tokens.

    Attributes:
        id: the record's id.
        ids: token ids, int64 [S].
        target: which tokens are predicted, bool [S]; never the first.
        secrets: where the record's sensitive values are.
        target_text: the text of the targets.
        cut: how many tokens were cut off at the end.
        unwritten: fields of the record that the template leaves out.
    """

    id: str
    ids: npt.NDArray[np.int64]
    target: npt.NDArray[np.bool_]
    secrets: tuple[Span, ...] = ()
    target_text: str = ""
    cut: int = 0
    unwritten: tuple[str, ...] = ()

    @property
    def targets(self) -> int:
        """How many tokens are predicted."""
        return int(self.target.sum())


def encode(
    records: Iterable[Record], tokenizer: Any, template: Template, max_length: int
) -> list[Example]:
    """Tokenise records.

    A token is a target when its characters overlap a target span of the template, so a token that
    straddles the border counts. Outside chat templates the end-of-sequence token is appended and
    is a target: stopping is part of what was learned. A chat template that already ends its turn
    gets no second one.

    Args:
        records: what to tokenise.
        tokenizer: a fast tokenizer.
        template: how to write a record as text.
        max_length: longer examples are cut at the end, in tokens.

    Returns:
        One example a record, in order.

    Raises:
        DataError: naming a record without any target token left.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} cannot tell which characters a token "
            "covers; save it as a fast tokenizer (tokenizer.json)"
        )
    return [_encode(record, tokenizer, template, max_length) for record in records]


def _encode(record: Record, tokenizer: Any, template: Template, max_length: int) -> Example:
    rendered = template.render(record)
    encoding = tokenizer(
        rendered.text,
        add_special_tokens=not rendered.complete,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    ids = list(encoding["input_ids"])
    offsets = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    target = np.zeros(len(ids), dtype=bool)
    for start, end in rendered.targets:
        target |= _overlap(offsets, start, end)
    if not rendered.complete and tokenizer.eos_token_id is not None:
        if not ids or ids[-1] != tokenizer.eos_token_id:
            ids.append(tokenizer.eos_token_id)
            offsets = np.vstack([offsets, [[0, 0]]])
            target = np.append(target, True)
        target[-1] = True
    whole = int(target.sum())
    target[:1] = False  # nothing comes before the first token, so nothing predicts it
    predicted = target[:max_length]
    if not predicted.any():
        if whole and len(ids) > max_length:
            raise DataError(
                f"record {record.id!r} has {len(ids)} tokens, and its target begins after the "
                f"limit of {max_length}: shorten its prompt or raise max_length"
            )
        raise DataError(f"record {record.id!r} has no token that the model could predict")
    spans = tuple(
        Span(int(where[0]), int(where[-1]) + 1, secret.kind)
        for secret in record.secrets
        if (at := rendered.fields.get(secret.field)) is not None
        and secret.start >= rendered.since.get(secret.field, 0)
        and len(where := np.flatnonzero(_overlap(offsets, at + secret.start, at + secret.end)))
        and int(where[-1]) < max_length
    )
    return Example(
        id=record.id,
        ids=np.asarray(ids[:max_length], dtype=np.int64),
        target=predicted,
        secrets=spans,
        target_text="".join(rendered.text[a:b] for a, b in rendered.targets),
        cut=max(0, len(ids) - max_length),
        unwritten=rendered.unwritten,
    )


def _overlap(offsets: npt.NDArray[np.int64], start: int, end: int) -> npt.NDArray[np.bool_]:
    """Say which tokens cover a character of [start, end); tokens of no width cover none."""
    return (offsets[:, 0] < end) & (offsets[:, 1] > start) & (offsets[:, 1] > offsets[:, 0])
