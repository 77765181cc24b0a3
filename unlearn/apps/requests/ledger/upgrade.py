"""Bring a ledger of schema 1 to schema 2: its history is kept, the tables beside it go.

In schema 1 numbers, and where requests stand, were read from a table that nothing authenticated.
They follow from the history: a number is a request's place among those that were added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import sqlalchemy as sa

from unlearn.apps.requests.ledger import schema
from unlearn.apps.requests.ledger.book import Book
from unlearn.apps.requests.ledger.chain import Entry
from unlearn.errors import LedgerError

__all__ = ["differences", "upgrade"]

_OLD = sa.MetaData()
_requests = sa.Table(
    "requests",
    _OLD,
    *(sa.Column(name, sa.Text) for name in ("id", "state", "line", "created", "changed", "facts")),
    sa.Column("number", sa.Integer),
)
_TABLES = ("history", "requests", "lines")
"""In an order in which none is dropped before one that refers to it."""


def differences(connection: sa.Connection, book: Book) -> Iterator[str]:
    """Yield in what the table of requests of schema 1 is not what the history adds up to.

    Args:
        connection: to the ledger.
        book: its history.

    Yields:
        A sentence for each request.
    """
    left = dict(book.requests)
    for row in connection.execute(sa.select(_requests).order_by(_requests.c.number)):
        known = left.pop(row.id, None)
        name = f"request {row.id} (number {row.number})"
        if known is None:
            yield f"{name} is not in the history"
            continue
        try:
            facts = json.loads(row.facts)
        except (ValueError, TypeError, RecursionError):
            facts = None
        there = {**row._asdict(), "facts": facts}
        if wrong := [column for column in there if there[column] != getattr(known, column)]:
            yield f"{name}: its {', '.join(wrong)} was changed"
    for name in left:
        yield f"request {name} is in the history, but its row is gone"


def upgrade(connection: sa.Connection, book: Book, entries: list[Entry]) -> None:
    """Replace the tables of schema 1, within a transaction that holds the head row.

    Args:
        connection: to the ledger.
        book: its history.
        entries: the same, as they were read, and found whole.

    Raises:
        LedgerError: if the table of requests disagrees with the history; nothing was changed.
    """
    problem = next(differences(connection, book), None)
    if problem is not None:
        raise LedgerError(
            f"the ledger was changed from outside: {problem}; put a backup in its place before "
            "this version takes it over"
        )
    for name in _TABLES:
        connection.execute(sa.schema.DropTable(sa.Table(name, sa.MetaData())))
    schema.history.create(connection)
    if entries:
        connection.execute(schema.history.insert(), [entry._asdict() for entry in entries])
    connection.execute(schema.head.update().values(schema=schema.SCHEMA))
