"""Commands of which the n-th write is the last thing that they do, or fails.

Each command runs in a forked process: where it is killed, nothing is tidied up. Writes are what
Python tells an audit hook of (files that are opened to be written, renamed, deleted; folders), what
is flushed, and statements and commits of the database.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import sqlite3
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from unlearn.apps.cli import run
from unlearn.provenance import lineage

__all__ = ["KILLED", "NOTHING", "Ended", "Fault", "attempt"]

Kind = Literal["none", "kill", "interrupt", "full disk", "read-only"]

KILLED = 137
"""What the process of a command that was killed ends with."""


class Fault(NamedTuple):
    """What happens at which write.

    Attributes:
        kind: `kill` and `interrupt` happen once, before the write; a disk that is full, or that is
            read-only, stays so from that write on.
        at: number of the write, from 1.
    """

    kind: Kind = "none"
    at: int = 1


NOTHING = Fault()


class Ended(NamedTuple):
    """How a command ended: its exit code, how many writes it had begun, what it said."""

    code: int
    writes: int
    said: str


_DELETING = {"os.remove", "os.rmdir"}
_NAMING = {"os.rename", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", *_DELETING}
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass
class _Writes:
    """Counts the writes of this process below a folder, and lets a fault happen."""

    folder: str
    fault: Fault
    count: int = 0
    changed: bool = False  # since the last commit

    def audit(self, event: str, told: tuple[Any, ...]) -> None:
        if event in _NAMING or (event == "open" and told[2] & _TO_WRITE):
            path = told[0]
            if isinstance(path, str | bytes | os.PathLike) and self._ours(os.fsdecode(path)):
                self.write(deletes=event in _DELETING)

    def _ours(self, path: str) -> bool:
        return not path.startswith("/") or path.startswith((self.folder, "/proc/self/fd/"))

    def write(self, *, deletes: bool = False) -> None:
        self.count += 1
        kind, at = self.fault
        if kind == "kill" and self.count == at:
            os._exit(KILLED)
        if kind == "interrupt" and self.count == at:
            raise KeyboardInterrupt
        if kind == "full disk" and self.count >= at and not deletes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if kind == "read-only" and self.count >= at:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def fsync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def flushed(descriptor: int) -> None:
            self.write()
            real(descriptor)

        return flushed

    def statement(self, _: Any, __: Any, text: str, *___: Any) -> None:
        if text.lstrip()[:6].upper() in {"INSERT", "UPDATE", "DELETE", "CREATE"}:
            self.changed = True
            self._database()

    def commit(self, _: Any) -> None:
        if self.changed:
            self.changed = False
            self._database()

    def _database(self) -> None:
        try:
            self.write()
        except OSError as error:
            full = error.errno == errno.ENOSPC
            told = "database or disk is full" if full else "attempt to write a readonly database"
            raise sa.exc.OperationalError("", {}, sqlite3.OperationalError(told)) from error


def _set_clock(seconds: float) -> None:
    """Let this process see another time."""
    shift = datetime.timedelta(seconds=seconds)

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.now(tz) + shift

    clock: Any = SimpleNamespace(datetime=Shifted, UTC=datetime.UTC)
    lineage.datetime = clock  # type: ignore[misc]


def attempt(
    words: Sequence[str | Path], folder: Path, fault: Fault = NOTHING, clock: float = 0
) -> Ended:
    """Run a command in a process of its own.

    Args:
        words: after `unlearn`.
        folder: below which writes count.
        fault: what happens to it.
        clock: seconds by which its clock is off.

    Returns:
        How it ended.
    """
    told = folder.with_name(f"{folder.name}.told")  # where the fault is not
    told.unlink(missing_ok=True)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries sleep
        child = os.fork()
    if child == 0:
        code = 99
        try:
            code = _run(words, folder, fault, clock, told, writer)
        except BaseException:
            told.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        count = pipe.read()
    _, status = os.waitpid(child, 0)
    said = told.read_text(errors="replace") if told.exists() else ""
    return Ended(os.waitstatus_to_exitcode(status), int(count or fault.at), said)


def _run(
    words: Sequence[str | Path], folder: Path, fault: Fault, clock: float, told: Path, pipe: int
) -> int:
    output = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(output, standard)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    if "torch" in sys.modules:  # whose threads did not come along
        sys.modules["torch"].set_num_threads(1)
    _set_clock(clock)
    writes = _Writes(str(folder), fault)
    with _watched(writes):
        code = run([str(word) for word in words])
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(pipe, str(writes.count).encode())
    return code


@contextlib.contextmanager
def _watched(writes: _Writes) -> Iterator[None]:
    """Watch this process from here on: an audit hook cannot be taken away again."""
    os.fsync = writes.fsync(os.fsync)
    sa.event.listen(sa.Engine, "before_cursor_execute", writes.statement)
    sa.event.listen(sa.Engine, "commit", writes.commit)
    ended = False

    def audit(event: str, told: tuple[Any, ...]) -> None:
        if not ended:
            writes.audit(event, told)

    sys.addaudithook(audit)
    try:
        yield
    finally:
        ended = True
