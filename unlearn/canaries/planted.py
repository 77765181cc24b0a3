"""Which canaries a run of `forget` keeps, and which it takes out beside the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.canaries.pairs import Canaries, check_planted, joined, still_in
from unlearn.data.records import Record, Records
from unlearn.data.splits import loaded
from unlearn.errors import OptionError
from unlearn.model.folders import resolve_folder, stacked
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, Planted

__all__ = ["Lot", "lot_of"]


@dataclass(frozen=True)
class Lot:
    """Canaries that are in an adapter, as far as a run knows.

    Attributes:
        planted: what the lineage commits to; None if no file was named.
        left: included and not taken out yet.
        count: how many of them to take out.
    """

    planted: Planted | None = None
    left: tuple[Record, ...] = ()
    count: int = 0

    def gone(self, records: Records, forget: str | Sequence[str]) -> Records:
        """Return what is taken out: the records that are named, and `count` canaries more.

        Args:
            records: the data, with all canaries that are left.
            forget: IDS; may name canaries, too.

        Returns:
            Records and canaries.

        Raises:
            UnlearnError: if a record is not there, or there are not so many canaries.
        """
        chosen = records.select(forget)
        known = set(chosen.ids)
        free = [one.id for one in self.left if one.id not in known]
        if self.count > len(free):
            raise OptionError(
                f"--with-canaries {self.count}: only {len(free)} canaries are left in the adapter"
            )
        wanted = known | set(free[: self.count])
        return records.take([i for i, name in enumerate(records.ids) if name in wanted])

    def retain(self, retain: str | Path | Records | None) -> Records | None:
        """Return the records to keep, where they are given, with all canaries that are left."""
        return None if retain is None else joined(loaded(retain), self.left)

    def without(self, records: Records) -> Records:
        """Return records, but no canary."""
        own = {one.id for one in self.left}
        return records.take([i for i, name in enumerate(records.ids) if name not in own])


def lot_of(
    file: str | Path | None,
    count: int,
    model: str | Path,
    adapter: str | Path | Sequence[str | Path] | None,
    key: Key,
) -> Lot:
    """Read which canaries are in the adapter that a run changes.

    Args:
        file: of canaries; None for none.
        count: how many to take out beside the records.
        model: base model, or the full fine-tune.
        adapter: on it; the last one changes.
        key: under which the lineage names records.

    Returns:
        The canaries.

    Raises:
        UnlearnError: if the file is not the one that the adapter's lineage commits to.
    """
    if file is None:
        if count:
            raise OptionError("--with-canaries: name their file with --canaries")
        return Lot()
    if count < 0:
        raise OptionError(f"--with-canaries {count}: it cannot be negative")
    stack = stacked(adapter)
    folder = resolve_folder(*((stack[-1], "adapter") if stack else (model, "model")))
    canaries = Canaries.read(file)
    line = check_planted(canaries, file, Lineage.read(folder), key, folder)
    left = tuple(pair.included for pair in still_in(canaries, line, key)[0])
    return Lot(canaries.commitment, left, count)
