"""The key under which records are named: digests that nobody without it can guess."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from unlearn.data.records import Record
from unlearn.errors import LineageError

__all__ = ["Key", "home"]


def home() -> Path:
    """Return the folder of the key and the suppression list (`UNLEARN_HOME` or `~/.unlearn`)."""
    return Path(os.environ.get("UNLEARN_HOME") or Path.home() / ".unlearn").expanduser()


class Key:
    """The secret under which record digests are made.

    Args:
        secret: at least 16 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise LineageError("the lineage key is too short: at least 32 hexadecimal digits")
        self._secret = secret
        self.id: str = hashlib.sha256(b"unlearn key id\0" + secret).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"Key(id={self.id!r})"

    def digest(self, record: Record) -> str:
        """Return HMAC-SHA256(key, canonical content of the record) in hexadecimal."""
        return self.mac(record.canonical.encode())

    def mac(self, content: bytes) -> str:
        """Return HMAC-SHA256(key, content) in hexadecimal."""
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()

    @classmethod
    def load(cls) -> Key:
        """Read the key from `UNLEARN_KEY` or the key file, making the file on first use.

        Returns:
            The key.

        Raises:
            LineageError: if the key is malformed, or its file can be read by others.
        """
        text = os.environ.get("UNLEARN_KEY")
        if text:
            return cls(_unhex(text, "the environment variable UNLEARN_KEY"))
        path = home() / "key"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A temporary name and a link: two processes starting together agree on one key.
            fresh = path.with_name(f".key-{os.getpid()}")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise LineageError(f"the key {path} can be read by others; run: chmod 600 {path}")
        return cls(_unhex(path.read_bytes().decode("ascii", errors="replace"), str(path)))


def _unhex(text: str, where: str) -> bytes:
    try:
        return bytes.fromhex(text.strip())
    except ValueError:
        raise LineageError(f"{where} does not hold a key: hexadecimal digits expected") from None
