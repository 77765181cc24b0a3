"""Records near those taken out: what careless forgetting damages first."""

from __future__ import annotations

from pathlib import Path

from unlearn.data.records import Records
from unlearn.data.splits import refuse_shared
from unlearn.errors import SelectionError

__all__ = ["neighbours"]


def neighbours(
    source: str | Path | Records | None, records: Records, forget_records: Records
) -> Records | None:
    """Return the records about the same people or topics as those taken out.

    Args:
        source: a file of records; which of `records` they are (IDS syntax); or None.
        records: the records of the original training.
        forget_records: those taken out.

    Returns:
        The neighbours; None where none are named.

    Raises:
        DataError: if one of them was itself taken out, or the source names none.
    """
    if source is None:
        return None
    chosen = _read(source, records)
    refuse_shared(
        chosen,
        forget_records,
        where="--neighbour",
        what="record(s) are among those to forget",
        advice="neighbours are like them, and stay",
    )
    return chosen


def _read(source: str | Path | Records, records: Records) -> Records:
    if isinstance(source, Records):
        return source
    if Path(source).expanduser().exists():
        return Records.load(source)
    try:
        return records.select(str(source))
    except SelectionError as error:
        raise SelectionError(f"--neighbour: no such file, and as records: {error}") from error
