"""False answers to records, and their true ones in other words, as a user gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unlearn._loading import read_rows, record_of
from unlearn.errors import DataError
from unlearn.records import Records

__all__ = ["Answers", "Perturbed", "read_perturbed"]


class Answers(NamedTuple):
    """Other answers to one record.

    Attributes:
        false: false answers of the true one's form, at least one.
        paraphrase: the true answer in other words; None where only the record's own is known.
    """

    false: tuple[str, ...]
    paraphrase: str | None = None


Perturbed = Mapping[str, Mapping[int, Answers]]
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
    found: dict[str, dict[int, Answers]] = {}
    for place, row in rows:
        answers = _answers(row, place)
        if row.get("id") is not None:
            at = by_id.get(str(row["id"]))
        else:
            at = by_content.get(record_of(row, place).canonical)
        if at is not None:
            found.setdefault(at[0], {})[at[1]] = answers
    if not found:
        raise DataError(
            f"{where}: no row belongs to a record of this audit; give each the record's id, or its "
            "question and answer"
        )
    return found


def _answers(row: Any, place: str) -> Answers:
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
    return Answers(tuple(false), paraphrase)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
