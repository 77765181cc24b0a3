"""Which records a run takes out, which it keeps, and which it must not mix with them."""

from __future__ import annotations

from pathlib import Path

from unlearn.errors import DataError, SelectionError
from unlearn.records import Records

__all__ = ["check_disjoint", "loaded", "retained"]


def loaded(source: str | Path | Records) -> Records:
    """Return records, reading them where a file is named.

    Args:
        source: records, or where they are.

    Returns:
        The records.
    """
    return source if isinstance(source, Records) else Records.load(source)


def retained(
    records: Records, gone: Records, retain: str | Path | Records | None, *, needed: bool
) -> Records:
    """Return the records to keep: those given, else the rest of the data.

    Args:
        records: the data.
        gone: what is taken out of it.
        retain: the records to keep, or a file of them, where they are given.
        needed: refuse to keep none.

    Returns:
        The records to keep.

    Raises:
        DataError: if none is left though some are needed, or one has the content of one that goes.
    """
    kept = (loaded(retain) if retain is not None else records).without(gone)
    if retain is not None:
        contents = {r.canonical for r in gone}
        same = [i for i, r in enumerate(kept) if r.canonical in contents]
        if same:
            raise DataError(
                f"{kept.source}: {len(same)} retain record(s) have the same content as records to "
                f"forget, first {kept[same[0]].id!r}; take them out of --retain"
            )
    if not len(kept):
        if retain is None and needed:
            raise SelectionError(
                "--forget names every record of --data, so nothing is left to retain; pass other "
                "records with --retain, or use a method that needs none (flat, grad_ascent, "
                "task_vector)"
            )
        if needed:
            raise DataError(f"{kept.source}: no record is left to retain")
    return kept


def check_disjoint(unseen: Records | None, gone: Records, kept: Records) -> None:
    """Refuse a holdout that shares records with what the model was trained on.

    Args:
        unseen: the holdout, if there is one.
        gone: what is taken out.
        kept: what is kept.

    Raises:
        DataError: naming the first record that is in both.
    """
    if unseen is None:
        return
    known = {r.canonical for part in (gone, kept) for r in part}
    shared = [r.id for r in unseen if r.canonical in known]
    if shared:
        raise DataError(
            f"--holdout {unseen.source}: {len(shared)} record(s) are also in the forget or retain "
            f"data, first {shared[0]!r}; a holdout must be unseen"
        )
