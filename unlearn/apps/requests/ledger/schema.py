"""The ledger's tables, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa

from unlearn.apps.requests.ledger.states import STATES

__all__ = ["SCHEMA", "head", "history", "lines", "metadata", "requests"]

SCHEMA = 1

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

lines = sa.Table(
    "lines",
    metadata,
    sa.Column("line", sa.String(80), primary_key=True),
    sa.Column("lease", sa.Text),
)
"""An adapter and those made from it, by the digest of the first; and who is working on it."""

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(12), nullable=False, unique=True),
    sa.Column(
        "state",
        sa.String(16),
        sa.CheckConstraint("state IN ({})".format(", ".join(map(repr, STATES)))),
        nullable=False,
        index=True,
    ),
    sa.Column("line", sa.ForeignKey("lines.line"), nullable=False, index=True),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("changed", sa.String(32), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
)
"""Where each request stands: what its history adds up to."""

history = sa.Table(
    "history",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("request", sa.ForeignKey("requests.id"), nullable=False, index=True),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("mac", sa.String(64), nullable=False),
)
"""What happened, in order. Rows are only ever added."""
