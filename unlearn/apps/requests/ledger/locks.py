"""Who is at work on a line of adapters: locks of the system's, which end with their process.

Beside a ledger in a file, a lock is `flock` on a file of its own. On PostgreSQL it is an advisory
lock of the session, and what is changed under it is changed over the very connection that holds it:
where that breaks, so does the change.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from unlearn.apps.requests.ledger.engine import session
from unlearn.errors import LedgerError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["BusyError", "Hold", "held"]


class BusyError(LedgerError):
    """Another process is at work on a line of adapters."""


@dataclass(frozen=True)
class Hold:
    """A process's hold on a line.

    Attributes:
        line: which.
        lost: says whether it holds no more.
        connection: over which changes are made; None for one of their own.
    """

    line: str
    lost: Callable[[], bool]
    connection: sa.Connection | None = None


@contextlib.contextmanager
def held(engine: sa.Engine, ledger: str, line: str) -> Iterator[Hold]:
    """Hold a line of adapters, so that no other process works on it.

    Args:
        engine: of the ledger's database.
        ledger: its id.
        line: which line.

    Yields:
        The hold; it ends with the block, or with the process, however that ends.

    Raises:
        BusyError: if another process is at work on it.
        LedgerError: if it cannot be locked.
    """
    if engine.dialect.name == "postgresql":
        with _of_session(engine, ledger, line) as hold:
            yield hold
    else:
        place = os.path.realpath(str(engine.url.database))  # the same through every link
        with _of_file(Path(f"{place}.locks"), line) as hold:
            yield hold


def _me() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}"


def _busy(line: str, who: str) -> BusyError:
    known = f" ({who})" if who else ""
    return BusyError(f"another process{known} is at work on the adapter {line[:19]}…")


@contextlib.contextmanager
def _of_file(folder: Path, line: str) -> Iterator[Hold]:
    path = folder / f"{hashlib.sha256(line.encode()).hexdigest()[:16]}.lock"
    if fcntl is None:
        raise LedgerError(
            f"{folder} cannot be locked: this system has no flock; keep the ledger on PostgreSQL"
        )
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LedgerError(f"{path} cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                raise _busy(line, file.read(200).decode(errors="replace")) from None
            raise LedgerError(
                f"{path} cannot be locked: {error.strerror}; keep the ledger on a local disk, or "
                "on PostgreSQL"
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            file.truncate(0)
            file.write(_me().encode())
        yield Hold(line, lambda: not _is_at(path, file.fileno()))


def _is_at(path: Path, descriptor: int) -> bool:
    """Say whether a path still leads to an open file: else others may lock another in its place."""
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False


@contextlib.contextmanager
def _of_session(engine: sa.Engine, ledger: str, line: str) -> Iterator[Hold]:
    digest = hashlib.sha256(f"unlearn line\0{ledger}\0{line}".encode()).digest()
    number = int.from_bytes(digest[:8], signed=True)
    with session(engine) as connection:
        with connection.begin():
            # noted beside the session, for those who find the line taken
            named = sa.text("SELECT set_config('application_name', :me, false)")
            connection.execute(named, {"me": f"unlearn {_me()}"[:63]})
            mine = connection.scalar(sa.text("SELECT pg_try_advisory_lock(:n)"), {"n": number})
            who = "" if mine else _session_of(connection, digest)
            pid = connection.scalar(_PID)
        if not mine:
            raise _busy(line, who)
        # a connection that broke is made anew without being told, and without the lock
        yield Hold(line, lambda: connection.scalar(_PID) != pid, connection)


_PID = sa.text("SELECT pg_backend_pid()")
_HOLDER = sa.text(
    "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
    "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
    "AND l.classid::bigint = :high AND l.objid::bigint = :low "
    "AND a.datname = current_database() LIMIT 1"
)


def _session_of(connection: sa.Connection, digest: bytes) -> str:
    """Return what the session that holds a lock calls itself."""
    halves = {"high": int.from_bytes(digest[:4]), "low": int.from_bytes(digest[4:8])}
    return str(connection.scalar(_HOLDER, halves) or "").removeprefix("unlearn ")[:200]
