"""The ledger: requests, what happened to each, and who is working on them.

A file for SQLite, or a PostgreSQL database. Every change is one transaction that appends to the
history and updates the request's row; the two must always agree. Nothing personal is stored:
names and records as HMAC digests under the user's key, paths sealed (see `_sealing`). The one free
text is the label, which whoever adds a request chooses and must not put a person in.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from unlearn.apps.requests.ledger import schema
from unlearn.apps.requests.ledger.chain import START, head_mac, head_problem
from unlearn.apps.requests.ledger.engine import (
    alone,
    connect,
    default_url,
    reading,
    sqlite_file,
    writing,
)
from unlearn.apps.requests.ledger.escrow import Escrow
from unlearn.apps.requests.ledger.leases import SECONDS, Lease, is_free, renewed
from unlearn.apps.requests.ledger.parsing import EVENT, parsed
from unlearn.apps.requests.ledger.sealing import Sealer
from unlearn.apps.requests.ledger.states import State
from unlearn.apps.requests.ledger.writer import Event, Request, Writer, request_of
from unlearn.errors import LedgerError
from unlearn.provenance.keys import Key, home

__all__ = ["Event", "Ledger", "Request", "Writer"]


class Ledger:
    """An open ledger.

    Args:
        engine: of the database, with its tables.
        key: of all digests and MACs.
        escrow: the folder of sealed records; None for the usual one.
        examine: open it even if the end of its history was tampered with, to find out more;
            nothing can be written to it then.

    Raises:
        LedgerError: if the ledger was made under another key, or by a newer version, or was
            tampered with.
    """

    def __init__(
        self, engine: sa.Engine, key: Key, escrow: Path | None = None, *, examine: bool = False
    ) -> None:
        self.engine = engine
        self.key = key
        with reading(engine) as connection:
            row = connection.execute(sa.select(schema.head)).first()
            last = _last(connection)
        if row is None:
            row, last = self._begin()
        if row.schema != schema.SCHEMA:
            raise LedgerError(f"the ledger has schema {row.schema}; this version reads 1")
        if row.key_id != key.id:
            raise LedgerError(
                f"the ledger was made with the key {row.key_id}, and the key in use is {key.id}; "
                "set UNLEARN_KEY to that key"
            )
        self.id: str = row.ledger
        if not examine:
            self._sound(row, last)
        self.sealer = Sealer(key, self.id)
        self.escrow = Escrow(escrow or home() / f"{self.id}.escrow", self.sealer)

    @classmethod
    def open(
        cls, url: str | None = None, key: Key | None = None, *, examine: bool = False
    ) -> Ledger:
        """Open a ledger, or make one.

        Args:
            url: a file, `sqlite:///FILE` or `postgresql://…`; None for `default_url()`.
            key: of its digests; None for the user's.
            examine: open it even if it was tampered with.

        Returns:
            The ledger. The escrow of a file lies beside it, that of a server in the home.
        """
        url = url or default_url()
        file = sqlite_file(url)
        beside = file.with_name(f"{file.name}.escrow") if file else None
        return cls(connect(url), key or Key.load(), beside, examine=examine)

    def folder(self, kind: str) -> Path:
        """Return where results go unless told otherwise: beside the escrow."""
        return self.escrow.folder.with_suffix(f".{kind}")

    def _begin(self) -> tuple[Any, tuple[int, str]]:
        """Write the head of an empty ledger; of two processes starting, one does."""
        ledger = secrets.token_hex(16)
        row = {
            "one": 1,
            "schema": schema.SCHEMA,
            "ledger": ledger,
            "key_id": self.key.id,
            "seq": 0,
            "hash": START,
            "mac": head_mac(self.key, ledger, 0, START),
        }
        with writing(self.engine) as connection:
            alone(connection)
            last = _last(connection)
            there = connection.execute(sa.select(schema.head)).first()
            if there is None:
                if last != (0, START):
                    raise LedgerError(
                        "the ledger has a history and no head: its head was deleted from outside; "
                        "put a backup in its place"
                    )
                connection.execute(schema.head.insert(), row)
            return there or connection.execute(sa.select(schema.head)).one(), last

    def _sound(self, head: Any, last: tuple[int, str]) -> None:
        """Refuse a ledger whose history does not end where its head, under the key, says.

        A head that is written on top of that would make it look as if all were well.
        """
        problem = head_problem(self.key, self.id, head, last)
        if problem:
            raise LedgerError(
                f"the ledger was changed from outside: {problem}; `unlearn request check` looks at "
                "all of it; put a backup in its place before going on"
            )

    def get(self, name: str) -> Request:
        """Return a request by its id, the beginning of its id, or its number.

        Raises LedgerError if there is none, or more than one.
        """
        table = schema.requests
        match = table.c.id.startswith(name.lower(), autoescape=True)
        if name.isdecimal() and len(name) < 10:
            match = match | (table.c.number == int(name))
        with reading(self.engine) as connection:
            rows = connection.execute(sa.select(table).where(match).limit(3)).all()
        exact = [r for r in rows if name.lower() in {r.id, str(r.number)}]
        if len(exact or rows) != 1:
            what = f"{len(rows)} or more requests" if rows else "no request"
            raise LedgerError(f"the ledger has {what} {name!r}; `unlearn request list` shows them")
        return request_of((exact or rows)[0])

    def requests(
        self, states: Collection[State] = (), *, line: str | None = None, person: str | None = None
    ) -> list[Request]:
        """Return requests in the order they were added.

        Args:
            states: only in these; all when empty.
            line: only of this line.
            person: only those added for this person (a name; compared as a digest).

        Returns:
            The requests.
        """
        query = sa.select(schema.requests).order_by(schema.requests.c.number)
        if states:
            query = query.where(schema.requests.c.state.in_(states))
        if line is not None:
            query = query.where(schema.requests.c.line == line)
        with reading(self.engine) as connection:
            requests = [request_of(row) for row in connection.execute(query)]
        if person is not None:
            digest = self.person(person)
            requests = [r for r in requests if r.facts.get("person") == digest]
        return requests

    def history(self, request: str) -> list[Event]:
        """Return what happened to a request, in order."""
        table = schema.history
        query = sa.select(table.c.content).where(table.c.request == request).order_by(table.c.seq)
        with reading(self.engine) as connection:
            rows = connection.execute(query).all()
        entries = (parsed(row.content, EVENT, f"the history of request {request}") for row in rows)
        return [Event(**{name: entry[name] for name in EVENT}) for entry in entries]

    def person(self, name: str) -> str:
        """Return the digest that stands for a person's name."""
        return self.key.mac(b"unlearn person\0" + name.strip().encode())

    @contextmanager
    def writing(self, lease: Lease | None = None, line: str = "") -> Iterator[Writer]:
        """Yield a writer in a transaction of its own, alone until it ends.

        Args:
            lease: the hold on a line under which changes are made.
            line: that line.

        Yields:
            The writer; its changes take effect together when the block ends, or not at all.

        Raises:
            LedgerError: if the lease was lost, or the ledger was tampered with.
        """
        with writing(self.engine) as connection:
            row = _head(connection)
            self._sound(row, _last(connection))
            if lease is not None:
                text = connection.scalar(_lease_of(line).with_for_update(key_share=True))
                if text is None or Lease.read(text).token != lease.token:
                    raise LedgerError(
                        "another process has taken over this line of adapters; nothing was changed"
                    )
            writer = Writer(connection, self.key, row.seq, row.hash)
            yield writer
            writer.finish(self.id)

    @contextmanager
    def alone(self) -> Iterator[Writer]:
        """Yield a writer by which to look, while nobody writes, at a ledger in any condition.

        Yields:
            The writer; nothing that is changed through it takes effect.
        """
        with writing(self.engine) as connection:
            row = _head(connection)
            yield Writer(connection, self.key, row.seq, row.hash)
            connection.rollback()

    @contextmanager
    def lease(self, line: str, seconds: float = SECONDS) -> Iterator[Lease | None]:
        """Hold a line of adapters, so that no other process works on it.

        On PostgreSQL the line's row is taken by SELECT … FOR UPDATE SKIP LOCKED, on SQLite within
        BEGIN IMMEDIATE; what is held afterwards is the lease written there.

        Args:
            line: which.
            seconds: how long it holds without being renewed, which happens by itself.

        Yields:
            The lease; None if another process holds the line.
        """
        lease = self._take(line, seconds)
        if lease is None:
            yield None
            return
        try:
            with renewed(lambda: self._renew(line, lease, seconds), seconds / 3):
                yield lease
        finally:
            self._write_lease(line, lease, None)

    @contextmanager
    def lease_of(self, request: Request) -> Iterator[Lease]:
        """Hold the line of a request.

        Raises LedgerError if another process is at work on it.
        """
        with self.lease(request.line) as lease:
            if lease is None:
                raise LedgerError(f"another process is at work on the line of request {request.id}")
            yield lease

    def _take(self, line: str, seconds: float) -> Lease | None:
        lease = Lease.new(seconds)
        with writing(self.engine) as connection:
            row = connection.execute(
                _lease_of(line).with_for_update(skip_locked=True, key_share=True)
            ).first()
            if row is None or not is_free(row.lease):
                return None
            _set_lease(connection, line, lease.text())
        return lease

    def _renew(self, line: str, lease: Lease, seconds: float) -> bool:
        fresh = replace(Lease.new(seconds), token=lease.token)
        try:
            return self._write_lease(line, lease, fresh)
        except LedgerError:  # busy for a moment: the next time will do
            return True

    def _write_lease(self, line: str, held: Lease, new: Lease | None) -> bool:
        """Replace a lease that is still held; False when it was lost."""
        with writing(self.engine) as connection:
            text = connection.scalar(_lease_of(line).with_for_update())
            if text is None or Lease.read(text).token != held.token:
                return False
            _set_lease(connection, line, new.text() if new else None)
        return True


def _head(connection: sa.Connection) -> Any:
    """Return the head, held until the transaction ends."""
    return connection.execute(sa.select(schema.head).with_for_update()).one()


def _last(connection: sa.Connection) -> tuple[int, str]:
    """Return number and hash of the newest entry of the history."""
    columns = schema.history.c
    query = sa.select(columns.seq, columns.hash).order_by(columns.seq.desc()).limit(1)
    row = connection.execute(query).first()
    return (int(row.seq), str(row.hash)) if row else (0, START)


def _lease_of(line: str) -> Any:
    return sa.select(schema.lines.c.lease).where(schema.lines.c.line == line)


def _set_lease(connection: sa.Connection, line: str, text: str | None) -> None:
    connection.execute(schema.lines.update().where(schema.lines.c.line == line).values(lease=text))
