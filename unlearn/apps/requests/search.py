"""Search for the records of a request that was entered: what `unlearn request locate` shows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unlearn.apps.requests.embeddings import Encoder
from unlearn.apps.requests.intake import Setup, selectors_of, settle, setup_of, untrained
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.locate import Located, locate

__all__ = ["Search", "ids_in", "matches", "never_trained_on", "note_matches", "search_of"]


@dataclass(frozen=True)
class Search:
    """Where and how the records of a request are looked for.

    Attributes:
        setup: what the request is carried out on, which names the data.
        selectors: how the request names its records.
        near: least similarity (Jaccard) of near-duplicates; None looks for none.
        encoder: finds records that say the same in other words, too.
        meaning: least similarity of those, a cosine.
    """

    setup: Setup
    selectors: Sequence[str]
    near: float | None
    encoder: Encoder | None
    meaning: float


def search_of(
    ledger: Ledger, request: Request, near: float | None, encoder: Encoder | None, meaning: float
) -> Search:
    """Return the search for a request's records; see `Search`."""
    setup, selectors = setup_of(ledger, request), selectors_of(ledger, request)
    return Search(setup, selectors, near, encoder, meaning)


def ids_in(text: str | None) -> list[str]:
    """Return the ids in a line of CSV: one that holds a comma stands between double quotes."""
    cells = next(csv.reader([text or ""], skipinitialspace=True), [])
    return [cell.strip() for cell in cells if cell.strip()]


def matches(search: Search, include: Iterable[str] = ()) -> Located:
    """Return what a search finds, with the near-duplicates of some ids among the records."""
    return locate(
        search.setup.data,
        search.selectors,
        retain=search.setup.retain,
        near=search.near,
        encoder=search.encoder,
        meaning=search.meaning,
        include=include,
    )


def never_trained_on(ledger: Ledger, search: Search, located: Located) -> int:
    """Return how many of the records the adapter never learned, as far as its lineage says."""
    digests = (ledger.key.digest(record) for record in located.records)
    return untrained(ledger, search.setup.changing, digests)


def note_matches(
    ledger: Ledger, request: Request, search: Search, located: Located, included: int
) -> Request:
    """Note which records a request is about, and put them in escrow.

    Args:
        ledger: where.
        request: received, or located before.
        search: what was looked for.
        located: what was found and confirmed.
        included: how many near-duplicates were confirmed.

    Returns:
        The request, located.

    Raises:
        LedgerError: if it is past that.
    """
    return settle(
        ledger,
        request,
        located,
        threshold=search.near,
        meaning=search.meaning if search.encoder else None,
        included=included,
    )
