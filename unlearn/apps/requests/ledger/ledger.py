"""The ledger: requests, what happened to each, and who is working on them.

A file for SQLite, or a PostgreSQL database. Every change is one transaction that appends to the
history; where a request stands is what its entries add up to, and nothing else is read. Nothing
personal is stored: names and records as HMAC digests under the user's key, paths sealed (see
`sealing`). The one free text is the label, which whoever adds a request chooses and must not put a
person in.
"""

from __future__ import annotations

import gc
import secrets
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from unlearn.apps.requests.ledger import schema
from unlearn.apps.requests.ledger.book import Book, Event, Request
from unlearn.apps.requests.ledger.chain import START, Entry, first_break, head_mac, head_problem
from unlearn.apps.requests.ledger.engine import (
    alone,
    connect,
    default_url,
    reading,
    sqlite_file,
    writing,
)
from unlearn.apps.requests.ledger.escrow import Escrow
from unlearn.apps.requests.ledger.locks import Hold, held
from unlearn.apps.requests.ledger.sealing import Sealer
from unlearn.apps.requests.ledger.states import State
from unlearn.apps.requests.ledger.upgrade import upgrade
from unlearn.apps.requests.ledger.writer import Writer
from unlearn.errors import LedgerError
from unlearn.provenance.keys import Key, home

__all__ = ["Ledger", "entries_after"]


class Ledger:
    """An open ledger.

    Args:
        engine: of the database, with its tables.
        key: of all digests and MACs.
        escrow: the folder of sealed records; None for the usual one.
        examine: open it even if it was tampered with, to find out more; nothing can be read from
            it or written to it then.

    Raises:
        LedgerError: if the ledger was made under another key, or by a newer version, or was
            tampered with.
    """

    def __init__(
        self, engine: sa.Engine, key: Key, escrow: Path | None = None, *, examine: bool = False
    ) -> None:
        self.engine = engine
        self.key = key
        self._book = Book()
        with reading(engine) as connection:
            row = connection.execute(sa.select(schema.head)).first()
        if row is None:
            row = self._begin()
        if row.schema not in {1, schema.SCHEMA}:
            raise LedgerError(
                f"the ledger has schema {row.schema}; this version reads {schema.SCHEMA}"
            )
        if row.key_id != key.id:
            raise LedgerError(
                f"the ledger was made with the key {row.key_id}, and the key in use is {key.id}; "
                "set UNLEARN_KEY to that key"
            )
        self.id: str = row.ledger
        with suppress(LedgerError) if examine else nullcontext():
            if row.schema == 1:
                self._upgrade()
            with _uncollected():
                self._read()
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

    def _begin(self) -> Any:
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
            there = connection.execute(sa.select(schema.head)).first()
            if there is None:
                if entries_after(connection, 0):
                    raise LedgerError(
                        "the ledger has a history and no head: its head was deleted from outside; "
                        "put a backup in its place"
                    )
                connection.execute(schema.head.insert(), row)
            return there or connection.execute(sa.select(schema.head)).one()

    def _upgrade(self) -> None:
        """Bring the ledger to this version's schema, unless another process just did."""
        with writing(self.engine) as connection:
            head = _head(connection)
            if head.schema != schema.SCHEMA:
                entries = entries_after(connection, 0)
                upgrade(connection, self._caught_up(head, entries), entries)

    def _read(self) -> Book:
        """Return what the history adds up to, now."""
        with reading(self.engine) as connection:
            head = _head(connection, lock=False)
            return self._caught_up(head, entries_after(connection, self._book.seq))

    def _caught_up(self, head: Any, entries: list[Entry]) -> Book:
        """Take new entries in, refusing a history that does not end where its head says.

        The head names the hash of the last entry under the key, and each hash that of the entry
        before: with the head, all of them are authentic. What was taken in before stays so,
        whatever becomes of the rows.
        """
        book = self._book
        problem = next(first_break(entries, None, (book.seq, book.hash)), None)
        last = (entries[-1].seq, entries[-1].hash) if entries else (book.seq, book.hash)
        problem = problem or head_problem(self.key, self.id, head, last)
        if problem:
            raise LedgerError(
                f"the ledger was changed from outside: {problem}; `unlearn request check` looks at "
                "all of it; put a backup in its place before going on"
            )
        book.read(entries)
        return book

    def get(self, name: str) -> Request:
        """Return a request by its number, its id, or the beginning of its id.

        Raises LedgerError if there is none, or more than one.
        """
        found = self._read().named(name)
        if len(found) != 1:
            what = f"{len(found)} requests" if found else "no request"
            raise LedgerError(f"the ledger has {what} {name!r}; `unlearn request list` shows them")
        return found[0]

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
        digest = None if person is None else self.person(person)
        found = self._read().select(states, line)
        return [r for r in found if digest in {None, r.facts.get("person")}]

    def history(self, request: str) -> list[Event]:
        """Return what happened to a request, in order."""
        return list(self._read().events.get(request, ()))

    def person(self, name: str) -> str:
        """Return the digest that stands for a person's name."""
        return self.key.mac(b"unlearn person\0" + name.strip().encode())

    @contextmanager
    def writing(self, hold: Hold | None = None) -> Iterator[Writer]:
        """Yield a writer in a transaction of its own, alone until it ends.

        Args:
            hold: on a line, under which changes are made.

        Yields:
            The writer; its changes take effect together when the block ends, or not at all.

        Raises:
            LedgerError: if the hold was lost, or the ledger was tampered with.
        """
        with writing(self.engine, hold.connection if hold else None) as connection:
            if hold is not None and hold.lost():
                raise LedgerError(
                    f"the lock on the adapter {hold.line[:19]}… was lost; nothing was changed"
                )
            head = _head(connection)
            book = self._caught_up(head, entries_after(connection, self._book.seq))
            writer = Writer(connection, self.key, book)
            yield writer
            writer.finish(self.id)

    @contextmanager
    def alone(self) -> Iterator[sa.Connection]:
        """Yield a connection by which to look, while nobody writes, at a ledger in any condition.

        Yields:
            The connection; nothing that is changed over it takes effect.
        """
        with writing(self.engine) as connection:
            _head(connection)
            yield connection
            connection.rollback()

    def hold(self, line: str) -> AbstractContextManager[Hold]:
        """Hold a line of adapters while a block runs, so that no other process works on it.

        Raises `BusyError` if another process does.
        """
        return held(self.engine, self.id, line)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Spare the garbage collector a search of what is made in bulk, and is none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def entries_after(connection: sa.Connection, seq: int) -> list[Entry]:
    """Return the entries of a history after the one with a number, in order."""
    columns = schema.history.c
    query = sa.select(*(columns[name] for name in Entry._fields)).order_by(columns.seq)
    return [Entry(*row) for row in connection.execute(query.where(columns.seq > seq))]


def _head(connection: sa.Connection, *, lock: bool = True) -> Any:
    """Return the head, held until the transaction ends if it is to be written."""
    query = sa.select(schema.head)
    head = connection.execute(query.with_for_update() if lock else query).first()
    if head is None:
        raise LedgerError("the head of the ledger is gone; put a backup in its place")
    return head
