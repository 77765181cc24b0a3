"""Other prompts for records, as a user gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn._loading import read_rows
from unlearn.errors import DataError
from unlearn.records import Records

__all__ = ["read_paraphrases"]


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
    found: dict[str, list[str]] = {}
    if isinstance(source, Mapping):
        where = "paraphrases"
        rows = [(where, {"id": i, "prompt": text}) for i, texts in source.items() for text in texts]
    else:
        where = f"--paraphrases {source}"
        rows = [(f"{source}, {place}", row) for place, row in read_rows(source, "train")]
    for place, row in rows:
        name, prompt = (_text(row, key, place) for key in ("id", "prompt"))
        found.setdefault(name, []).append(prompt)
    known = set(records.ids)
    kept = {name: prompts for name, prompts in found.items() if name in known}
    if not kept:
        raise DataError(f"{where}: no row has the id of a record to forget")
    return kept


def _text(row: Mapping[str, Any], key: str, place: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f"{place}: no {key!r}; a row holds the id of a record and another prompt")
    return value
