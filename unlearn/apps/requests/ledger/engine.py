"""Connections to the database of a ledger, and what a transaction means on each kind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from unlearn.apps.requests.ledger import schema
from unlearn.errors import LedgerError
from unlearn.provenance.keys import home

__all__ = ["alone", "connect", "default_url", "reading", "session", "sqlite_file", "writing"]

BUSY_SECONDS = 30
"""How long a writer waits for another; changes take milliseconds."""

_KEEPALIVE_SECONDS = 60
"""After so much silence a connection is asked whether it is there: routers forget idle ones."""


def default_url() -> str:
    """Return the ledger in use when none is named: `UNLEARN_LEDGER`, else one in the home."""
    return os.environ.get("UNLEARN_LEDGER") or str(home() / "ledger.db")


def sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLite ledger, or None for a server.

    Args:
        url: `sqlite:///FILE`, a plain path, or the URL of a PostgreSQL database.

    Returns:
        The absolute path.

    Raises:
        LedgerError: if the URL is of another kind of database, or names no file.
    """
    kind, mark, rest = url.partition("://")
    if not mark:
        return Path(url).expanduser().absolute()
    if kind == "sqlite":
        path = rest.removeprefix("/")
        if not path or path == ":memory:":
            raise LedgerError(f"--ledger {url} names no file; write sqlite:///FILE")
        return Path(path).expanduser().absolute()
    if kind.partition("+")[0] not in {"postgresql", "postgres"}:
        raise LedgerError(f"--ledger {kind}://…: give a file, sqlite:///FILE or postgresql://…")
    return None


def connect(url: str) -> sa.Engine:
    """Open a database, making tables that are not there.

    Args:
        url: as `sqlite_file` takes it.

    Returns:
        The engine; connections are closed after each transaction.

    Raises:
        LedgerError: if it cannot be opened.
    """
    file = sqlite_file(url)
    engine = _sqlite(file) if file else _postgresql(url)
    with reading(engine) as connection:
        there = sa.inspect(connection).has_table("head")
    if not there:
        with writing(engine) as connection:
            alone(connection)
            schema.metadata.create_all(connection)
    return engine


def alone(connection: sa.Connection) -> None:
    """Wait, before there is a head row to lock, until no other process is making one."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7236498112)"))


@contextlib.contextmanager
def _errors(url: sa.URL) -> Iterator[None]:
    """Turn what a database refuses into an error that names it."""
    try:
        yield
    except (sa.exc.DatabaseError, sa.exc.InterfaceError) as error:
        where = url.database if url.drivername == "sqlite" else url.render_as_string()
        reason = " ".join(str(error.orig).split())[:200]
        raise LedgerError(f"the ledger {where} cannot be used: {reason}") from error


def _sqlite(file: Path) -> sa.Engine:
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise LedgerError(f"the ledger {file} cannot be opened: {error.strerror}") from error
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(file)),
        poolclass=NullPool,
        connect_args={"timeout": BUSY_SECONDS},
    )

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection: Any, _: Any) -> None:
        # the driver's own idea of when to begin would make BEGIN IMMEDIATE impossible
        connection.isolation_level = None
        for pragma in ("foreign_keys = ON", "journal_mode = WAL", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("unlearn_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _postgresql(url: str) -> sa.Engine:
    _, _, rest = url.partition("://")
    try:
        return sa.create_engine(
            f"postgresql+psycopg://{rest}",
            poolclass=NullPool,
            # a lock is held over a connection on which nothing may pass for hours
            connect_args={"keepalives_idle": _KEEPALIVE_SECONDS},
        )
    except ModuleNotFoundError:
        raise LedgerError(
            "a ledger on PostgreSQL needs psycopg: in a clone of unlearn, "
            "pip install '.[postgresql]'"
        ) from None
    except sa.exc.ArgumentError as error:
        raise LedgerError(f"--ledger: not the URL of a database ({error})") from None


@contextlib.contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection in a transaction that sees one moment of the ledger."""
    with _errors(engine.url), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextlib.contextmanager
def session(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection that is kept open: what belongs to a session ends with it."""
    with _errors(engine.url), engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def writing(engine: sa.Engine, over: sa.Connection | None = None) -> Iterator[sa.Connection]:
    """Yield a connection in a transaction that is alone in writing once it holds the head row.

    SQLite takes the lock at once (BEGIN IMMEDIATE). On PostgreSQL, whoever selects the head row
    FOR UPDATE has it.

    Args:
        engine: of the database.
        over: a connection that is open; None for a new one.

    Yields:
        The connection.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_errors(engine.url))
        if over is None:
            fresh = stack.enter_context(engine.connect())
            over = fresh.execution_options(unlearn_write=True)
        stack.enter_context(over.begin())
        yield over
