"""False answers to records, and their true ones in other words, as a user gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unlearn.data.loading import record_of
from unlearn.data.readers import read_rows
from unlearn.data.records import Records
from unlearn.errors import DataError

__all__ = ["OtherAnswers", "Perturbed", "read_paraphrases", "read_perturbed"]


class OtherAnswers(NamedTuple):
    """Other answers to one record.

    Attributes:
        false: false answers of the true one's form, at least one.
        paraphrase: the true answer in other words; None where only the record's own is known.
    """

    false: tuple[str, ...]
    paraphrase: str | None = None


Perturbed = Mapping[str, Mapping[int, OtherAnswers]]
"""Other answers by split and position."""


def read_perturbed(
    source: str | Path | Mapping[str, Sequence[str]] | None, split: Mapping[str, Records]
) -> Perturbed:
    """Find the records of an audit that have false answers.

    A row belongs to the record of its `id`; without one, to the record of the same content, so that
    tables of TOFU (`question`, `answer`, `paraphrased_answer`, `perturbed_answer`) fit as they are.

    Args:
        source: false answers by record id; a file with rows of `perturbed_answer` (a list of texts)
            and, if known, `paraphrased_answer`; or None.
        split: the records by split.

    Returns:
        What was found; rows of other records are passed over.

    Raises:
        DataError: naming the row that cannot be used, or if none belongs to any record.
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        where = "perturbed"
        rows = [(where, {"id": i, "perturbed_answer": list(v)}) for i, v in source.items()]
    else:
        where = f"--perturbed {source}"
        rows = [(f"{source}, {place}", row) for place, row in read_rows(source, "train")]
    by_id: dict[str, tuple[str, int]] = {}
    by_content: dict[str, tuple[str, int]] = {}
    for name, records in split.items():
        for i, record in enumerate(records):
            by_id.setdefault(record.id, (name, i))
            by_content.setdefault(record.canonical, (name, i))
    by_split: dict[str, dict[int, OtherAnswers]] = {}
    for place, row in rows:
        answers = _answers(row, place)
        if row.get("id") is not None:
            at = by_id.get(str(row["id"]))
        else:
            at = by_content.get(record_of(row, place).canonical)
        if at is not None:
            by_split.setdefault(at[0], {})[at[1]] = answers
    if not by_split:
        raise DataError(
            f"{where}: no row belongs to a record of this audit; give each the record's id, or its "
            "question and answer"
        )
    return by_split


def _answers(row: Any, place: str) -> OtherAnswers:
    """Read one row."""
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: not an object")
    false = row.get("perturbed_answer")
    false = [false] if isinstance(false, str) else false
    if not isinstance(false, (list, tuple)) or not false or not all(map(_is_text, false)):
        raise DataError(
            f"{place}: 'perturbed_answer' must be a list of false answers, texts that are not empty"
        )
    paraphrase = row.get("paraphrased_answer")
    if paraphrase is not None and not _is_text(paraphrase):
        raise DataError(f"{place}: 'paraphrased_answer' must be text that is not empty")
    return OtherAnswers(tuple(false), paraphrase)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def read_paraphrases(
    source: str | Path | Mapping[str, Sequence[str]] | None, records: Records
) -> dict[str, list[str]]:
    """Return other prompts for some records.

    Args:
        source: prompts by record id; a file with a row (`id`, `prompt`) for each; or None.
        records: the records that they are for; prompts of others are passed over.

    Returns:
        Prompts by record id, in their order.

    Raises:
        DataError: naming the row that cannot be used, or if none is for these records.
    """
    if source is None:
        return {}
    prompts: dict[str, list[str]] = {}
    if isinstance(source, Mapping):
        where = "paraphrases"
        rows = [(where, {"id": i, "prompt": text}) for i, texts in source.items() for text in texts]
    else:
        where = f"--paraphrases {source}"
        rows = [(f"{source}, {place}", row) for place, row in read_rows(source, "train")]
    for place, row in rows:
        name, prompt = (_text(row, key, place) for key in ("id", "prompt"))
        prompts.setdefault(name, []).append(prompt)
    known = set(records.ids)
    chosen = {name: prompts[name] for name in prompts if name in known}
    if not chosen:
        raise DataError(f"{where}: no row has the id of a record to forget")
    return chosen


def _text(row: Any, key: str, place: str) -> str:
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, str) or not value:
        raise DataError(f"{place}: no {key!r}; a row holds the id of a record and another prompt")
    return value
