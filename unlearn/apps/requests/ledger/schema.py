"""The ledger's tables, the same on SQLite and PostgreSQL: a history, and where it ends.

There are no others: where a request stands is what its history adds up to (see `book`), so that
nothing that is not authenticated decides anything.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["SCHEMA", "head", "history", "metadata"]

SCHEMA = 2
"""1 had tables of requests and of lines beside the history; see `upgrade`."""

metadata = sa.MetaData()

head = sa.Table(
    "head",
    metadata,
    sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1"), primary_key=True),
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("ledger", sa.String(32), nullable=False),
    sa.Column("key_id", sa.String(12), nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("mac", sa.String(64), nullable=False),
)
"""One row: where the history ends, under a MAC. Writers lock it."""

history = sa.Table(
    "history",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("mac", sa.String(64), nullable=False),
)
"""What happened, in order. Rows are only ever added."""
