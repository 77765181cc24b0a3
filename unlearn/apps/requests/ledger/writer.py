"""The writer through which everything happens to requests."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from unlearn.apps.requests.ledger import schema
from unlearn.apps.requests.ledger.book import Book, Request, follow
from unlearn.apps.requests.ledger.chain import canonical, entry_mac, head_mac, link
from unlearn.apps.requests.ledger.states import State, after
from unlearn.errors import LedgerError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import now

__all__ = ["Writer", "new_id"]


class Writer:
    """Makes changes within one transaction.

    Args:
        connection: which holds the head row.
        key: the ledger's key.
        book: what the history adds up to before; left as it is.
    """

    def __init__(self, connection: sa.Connection, key: Key, book: Book) -> None:
        self._connection, self._key, self._book = connection, key, book
        self._seq, self._hash = book.seq, book.hash
        self._changed: dict[str, Request] = {}
        self._added = len(book.requests)
        self._entries: list[dict[str, Any]] = []

    def add(self, facts: Sequence[Mapping[str, Any]], ids: Sequence[str] = ()) -> list[str]:
        """Add requests.

        Args:
            facts: of each, among them its `line`.
            ids: theirs, where they were drawn before (see `new_id`).

        Returns:
            The ids.

        Raises:
            LedgerError: if there is a request of such an id.
        """
        names = list(ids) or [new_id() for _ in facts]
        for name, own in zip(names, facts, strict=True):
            if name in self._book.requests or name in self._changed:
                raise LedgerError(f"there is a request {name} already")
            self._added += 1
            self._append(None, name, "added", "received", own, number=self._added)
        return names

    def change(self, request: str, event: str, **facts: Any) -> Request:
        """Let something happen to a request.

        Args:
            request: its id.
            event: see `states.EVENTS`.
            **facts: what is known now; None takes a fact back.

        Returns:
            The request afterwards.

        Raises:
            LedgerError: if there is no such request, or that cannot happen in its state.
        """
        before = self.get(request)
        return self._append(before, request, event, after(event, before.state), facts)

    def get(self, request: str) -> Request:
        """Return a request by its whole id, as it is within the transaction.

        Raises LedgerError if there is none.
        """
        known = self._changed.get(request) or self._book.requests.get(request)
        if known is None:
            raise LedgerError(f"the ledger has no request {request}")
        return known

    def deposits(self) -> set[str]:
        """Return the names of all escrow files in force."""
        book = Book()
        book.requests = {**self._book.requests, **self._changed}
        return book.deposits()

    def _append(
        self,
        before: Request | None,
        name: str,
        event: str,
        state: State,
        facts: Mapping[str, Any],
        number: int | None = None,
    ) -> Request:
        content: dict[str, Any] = {
            "seq": self._seq + 1,
            "at": now(),
            "request": name,
            "event": event,
            "state": state,
            "facts": dict(facts),
        }
        content |= {} if number is None else {"number": number}
        text = canonical(content)
        self._seq, self._hash = self._seq + 1, link(self._hash, text)
        mac = entry_mac(self._key, self._hash)
        row = {"seq": self._seq, "content": text, "hash": self._hash, "mac": mac}
        self._entries.append(row)
        self._changed[name] = follow(before, content, number)
        return self._changed[name]

    def finish(self, ledger: str) -> None:
        """Write the new entries and the head."""
        if not self._entries:
            return
        self._connection.execute(schema.history.insert(), self._entries)
        mac = head_mac(self._key, ledger, self._seq, self._hash)
        self._connection.execute(
            schema.head.update().values(seq=self._seq, hash=self._hash, mac=mac)
        )


def new_id() -> str:
    """Return a fresh id for a request."""
    return secrets.token_hex(6)
