"""Which record is whose: the clients of a federation by name, and who is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.data.records import Records
from unlearn.data.selectors import find
from unlearn.data.splits import without_copies
from unlearn.errors import OptionError, SelectionError, did_you_mean
from unlearn.federated.plan import client_mac
from unlearn.provenance.keys import Key
from unlearn.runs.fields import Selectors
from unlearn.shards.assignment import BY_RECORD, units_of

__all__ = ["CLIENT", "Members", "in_order", "members_of"]

CLIENT = "client:"
"""What a selector of a client begins with."""


@dataclass(frozen=True)
class Members:
    """The records of a file by client.

    Attributes:
        records: all of them.
        names: of the client of each.
        key: under which clients and records are named.
    """

    records: Records
    names: Sequence[str]
    key: Key

    @property
    def clients(self) -> dict[str, str]:
        """Names of clients by their keyed names, in the order of these."""
        macs = {client_mac(name, self.key): name for name in dict.fromkeys(self.names)}
        return dict(sorted(macs.items()))

    def of(self, name: str) -> Records:
        """Return the records of a client as it trains on them, see `in_order`."""
        own = [i for i, each in enumerate(self.names) if each == name]
        return in_order(self.records.ordered(own), self.key)

    def part(self, places: Sequence[int]) -> Members:
        """Return the clients with the records at some places alone."""
        return Members(
            self.records.ordered(list(places)), [self.names[i] for i in places], self.key
        )

    def select(self, selectors: Selectors) -> Records:
        """Return the records that selectors name; `client:NAME` names all records of a client.

        Args:
            selectors: one or several.

        Returns:
            The records, in the order of the file.

        Raises:
            SelectionError: naming what is not there, with the nearest that is.
        """
        given = [selectors] if isinstance(selectors, str) else list(selectors)
        places: set[int] = set()
        for one in given:
            places |= set(self._client(one) if one.strip().startswith(CLIENT) else self._find(one))
        return self.records.take(sorted(places))

    def without(self, gone: Records) -> Members:
        """Return who is left without some records, and copies of them.

        Raises SelectionError if nobody is.
        """
        kept = without_copies(self.records, gone).records
        if not len(kept):
            raise SelectionError("no record would be left to train on")
        names = dict(zip(self.records.ids, self.names, strict=True))
        return Members(kept, [names[one] for one in kept.ids], self.key)

    def _find(self, selector: str) -> list[int]:
        return find(self.records, selector)

    def _client(self, selector: str) -> list[int]:
        name = selector.strip().removeprefix(CLIENT).strip()
        places = [i for i, own in enumerate(self.names) if own == name]
        if not places:
            known = sorted(set(self.names))
            raise SelectionError(
                f"{self.records.source} has no client {name!r}{did_you_mean(name, known)}; it has "
                f"{len(known)}"
            )
        return places


def in_order(records: Records, key: Key) -> Records:
    """Return records in the order of their keyed digests, each content once.

    So the weights do not depend on the order of a file, nor on who else is in it.

    Args:
        records: of one client.
        key: under which they are named.

    Returns:
        Those to train on.
    """
    places: dict[str, int] = {}
    for place, record in enumerate(records):
        places.setdefault(key.digest(record), place)
    return records.ordered([places[digest] for digest in sorted(places)])


def members_of(source: str | Path | Records, records: Records, by: str, key: Key) -> Members:
    """Return the clients of a file.

    Args:
        source: where the records come from; for a field, the file.
        records: of it.
        by: `subject`, or a field of the file.
        key: under which clients and records are named.

    Returns:
        Who has what.

    Raises:
        OptionError: if clients would be single records, or the file has no such field.
    """
    if by == BY_RECORD:
        raise OptionError("--client-by record: a client is somebody who has records: name a field")
    return Members(records, units_of(source, records, by, key, "--client-by"), key)
