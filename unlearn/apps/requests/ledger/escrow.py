"""The records of open requests, encrypted, one file a request.

A file is never changed: a new one is written under a new name, and the ledger says which name
holds. So a kill between the two leaves the old one in force. When a request is closed its files
are shredded: overwritten with random bytes, flushed and unlinked. On flash memory and on file
systems that copy on write, old blocks may outlast that; they are ciphertext, safe as the key is.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.apps.requests.ledger.sealing import Sealer
from unlearn.errors import LedgerError, OutputError

__all__ = ["Deposit", "Escrow"]


@dataclass(frozen=True)
class Deposit:
    """Which file holds a request's records, and the SHA-256 it must have."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Escrow:
    """A folder of sealed files.

    Attributes:
        folder: made on first use with mode 700.
        sealer: of the ledger that the files belong to.
    """

    folder: Path
    sealer: Sealer

    def put(self, request: str, content: Any) -> Deposit:
        """Seal a JSON value into a new file, atomically, with mode 600.

        Args:
            request: the request's id.
            content: what to keep.

        Returns:
            The deposit, which the ledger must be told of.

        Raises:
            OutputError: if the disk does not take it.
        """
        sealed = self.sealer.seal_bytes(json.dumps(content).encode(), _purpose(request))
        name = f"{request}.{secrets.token_hex(6)}.sealed"
        stage = self.folder / f".{name}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            stage.rename(self.folder / name)
            _flush_folder(self.folder)
        except OSError as error:
            stage.unlink(missing_ok=True)
            raise OutputError(f"cannot write {self.folder / name}: {error.strerror}") from error
        return Deposit(name, hashlib.sha256(sealed).hexdigest())

    def get(self, request: str, deposit: Deposit) -> Any:
        """Return what was put.

        Raises LedgerError if the file is gone, was changed, or the key does not open it.
        """
        problem = self.problem(deposit)
        if problem:
            raise LedgerError(problem)
        sealed = (self.folder / deposit.name).read_bytes()
        return json.loads(self.sealer.open_bytes(sealed, _purpose(request)))

    def problem(self, deposit: Deposit) -> str | None:
        """Return what is wrong with a deposit's file, or None."""
        path = self.folder / deposit.name
        if path.is_symlink() or not path.is_file():
            return f"the escrow file {path} is gone"
        if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return f"the escrow file {path} can be read by others; run: chmod 600 {path}"
        if hashlib.sha256(path.read_bytes()).hexdigest() != deposit.sha256:
            return f"the escrow file {path} is not the one that was written"
        return None

    def strays(self, known: Collection[str]) -> list[Path]:
        """Return the files that the ledger does not name: what an interrupted command left.

        Args:
            known: names of the deposits in force. Take them while holding the ledger's lock, which
                every `put` happens under.

        Returns:
            Their paths.
        """
        if not self.folder.is_dir():
            return []
        files = (path for path in self.folder.iterdir() if ".sealed" in path.name)
        return sorted(path for path in files if path.name not in known)

    def of(self, request: str) -> list[Path]:
        """Return all files of a request that are there, whatever the ledger says of them.

        Raises OutputError where there is no escrow to look into: of records that may lie on another
        machine nothing is known.
        """
        if not self.folder.is_dir():
            raise OutputError(
                f"{self.folder} is not there: the records in escrow lie elsewhere, or nowhere; do "
                "it on the machine that holds them, or make an empty folder where they never were"
            )
        return sorted(p for p in self.folder.iterdir() if p.name.lstrip(".").startswith(request))

    def shred(self, *paths: Path) -> None:
        """Overwrite, flush and unlink files.

        Args:
            *paths: in the escrow's folder; one that is gone already is no error.

        Raises:
            OutputError: if one cannot be written or deleted; the rest stay.
        """
        for path in paths:
            try:
                self._shred(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise OutputError(
                    f"{path} cannot be shredded: {error.strerror}; what the ledger does not name "
                    "is tried again when a request is closed"
                ) from error
        if paths:
            _flush_folder(self.folder)

    def _shred(self, path: Path) -> None:
        size = path.lstat().st_size
        if not path.is_symlink():
            with path.open("r+b", buffering=0) as file:
                file.write(os.urandom(size))
                os.fsync(file.fileno())
        path.unlink()


def _purpose(request: str) -> str:
    return f"escrow of request {request}"


def _flush_folder(folder: Path) -> None:
    """Force names to disk; on systems where a folder can be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
