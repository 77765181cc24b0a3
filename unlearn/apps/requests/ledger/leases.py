"""Who is working on a line of adapters, and whether that process is still there."""

from __future__ import annotations

import functools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from unlearn.errors import LedgerError

__all__ = ["SECONDS", "Lease", "is_free", "renewed"]

SECONDS = 300.0
"""A lease lasts this long after its last renewal; its holder renews it three times as often."""


@dataclass(frozen=True)
class Lease:
    """A process's hold on a line.

    Attributes:
        token: drawn anew for each hold; what a change must present.
        host: machine, boot and process namespace.
        pid: process id there.
        started: when that process started, in the system's own units: ids are used again.
        until: when it lapses, in seconds of Unix time.
    """

    token: str
    host: str
    pid: int
    started: str
    until: float

    @classmethod
    def new(cls, seconds: float) -> Lease:
        """Return a lease for this process.

        Args:
            seconds: from now.

        Returns:
            The lease.
        """
        pid = os.getpid()
        until = time.time() + seconds
        return cls(secrets.token_hex(8), _host(), pid, _started(pid) or "", until)

    def text(self) -> str:
        """Return it as the ledger keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Lease:
        """Return the lease that `text` wrote."""
        try:
            content = json.loads(text)
            return cls(
                str(content["token"]),
                str(content["host"]),
                int(content["pid"]),
                str(content["started"]),
                float(content["until"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise LedgerError(
                "the lease of a line was changed from outside; put a backup of the ledger in its "
                "place"
            ) from None


def is_free(text: str | None) -> bool:
    """Say whether a lease holds no more.

    A process of this machine holds it as long as it lives, however late it renews. One elsewhere
    holds it until it lapses.

    Args:
        text: as the ledger keeps it; None for no lease.

    Returns:
        True where another may take over.
    """
    if text is None:
        return True
    lease = Lease.read(text)
    if lease.host == _host():
        return _started(lease.pid) != (lease.started or None)
    return time.time() > lease.until


@functools.cache
def _host() -> str:
    """Name what a process id means something in: machine, boot, process namespace."""
    parts = [socket.gethostname()]
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.exists():
        parts += [boot.read_text().strip(), str(Path("/proc/self/ns/pid").readlink())]
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """Return when a process of this machine started, or None if there is none (or a zombie)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            return None
        return None if fields[0] in {"Z", "X"} else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


@contextmanager
def renewed(renew: Callable[[], bool], every: float) -> Iterator[None]:
    """Renew a lease in the background while the block runs.

    Args:
        renew: renews once; False when the lease was lost, which ends the renewing.
        every: seconds between.

    Yields:
        Nothing.
    """
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(every):
            if not renew():
                return

    thread = threading.Thread(target=work, name="unlearn-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
