"""What an adapter was made from: hashes, keyed record digests, settings, versions.

Every folder this toolkit saves carries a `lineage.json`. Records appear in it only as HMAC-SHA256
digests under a key that stays with the user: a plain hash of a short record could be guessed.

The key is taken from the environment variable `UNLEARN_KEY` (64 hexadecimal digits), or from the
file `key` in the home folder of the toolkit (`UNLEARN_HOME`, by default `~/.unlearn`), which is
made on first use with mode 600.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unlearn._digests import weights_digest
from unlearn.errors import DataError, LineageError, SuppressedError
from unlearn.records import Record, Records

__all__ = [
    "FILE_NAME",
    "Base",
    "Key",
    "Lineage",
    "Planted",
    "RecordDigests",
    "check_suppressed",
    "home",
    "library_versions",
    "now",
    "suppress",
    "weights_digest",
]

FILE_NAME = "lineage.json"


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
        return cls(_unhex(path.read_text(), str(path)))


def _unhex(text: str, where: str) -> bytes:
    try:
        return bytes.fromhex(text.strip())
    except ValueError:
        raise LineageError(f"{where} does not hold a key: hexadecimal digits expected") from None


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Base(_Model):
    """The base model: the name it was opened by and the digest of its weights."""

    name: str
    digest: str


class RecordDigests(_Model):
    """Keyed digests of records: those that shaped the weights, and those taken out again."""

    key_id: str
    trained: list[str] = Field(default_factory=list)
    forgotten: list[str] = Field(default_factory=list)


class Planted(_Model):
    """Canaries that training included by a coin: how many pairs, and the SHA-256 of their file."""

    pairs: int
    sha256: str


class Lineage(_Model):
    """The content of `lineage.json`.

    `records.trained` holds every record that ever shaped the weights, those inherited from the
    parent included; `records.forgotten` those that a method was asked to take out. After exact
    retraining the forgotten records are not among the trained ones; after an approximate method
    they are in both. `canaries` is handed down to what is made of the adapter.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    created: str
    verb: str
    base: Base
    digest: str
    kind: Literal["adapter", "full"]
    parent: str | None = None
    records: RecordDigests
    canaries: Planted | None = None
    template: str
    method: str
    options: dict[str, Any]
    seed: int
    finetuned_with: dict[str, Any] = Field(default_factory=dict)
    cost: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    stopped: str | None = None

    @classmethod
    def read(cls, folder: str | Path) -> Lineage | None:
        """Read the lineage beside an adapter or model.

        Args:
            folder: the adapter's or model's folder.

        Returns:
            The lineage, or None where there is none (it was trained elsewhere).

        Raises:
            LineageError: if the file is there but cannot be understood.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise LineageError(f"{path} is not a lineage of schema 1: {_first(error)}") from error

    def write(self, folder: str | Path) -> None:
        """Write `lineage.json` into a folder."""
        text = self.model_dump_json(indent=2, by_alias=True)
        (Path(folder) / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"
    return str(error)


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries whose numerics enter the weights."""
    names = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy")
    from unlearn import __version__

    return {"unlearn": __version__} | {name: metadata.version(name) for name in names}


def _suppression_file() -> Path:
    return home() / "suppressed.jsonl"


def suppress(records: Records, reason: str, key: Key | None = None) -> Path:
    """Put records on the suppression list, so that they are never trained on again.

    Args:
        records: the deleted records.
        reason: why and when, for whoever meets the entry later; must not quote the record.
        key: the key of the digests; loaded when absent.

    Returns:
        The list's file.
    """
    key = key or Key.load()
    path = _suppression_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = {entry for _, entry in _suppressed(key)}
    lines = [
        json.dumps({"key_id": key.id, "digest": digest, "reason": reason, "date": now()}) + "\n"
        for digest in dict.fromkeys(key.digest(record) for record in records)
        if digest not in known
    ]
    # One append of all lines: a reader never meets half an entry.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write("".join(lines))
        file.flush()
        os.fsync(file.fileno())
    return path


def _suppressed(key: Key) -> Iterator[tuple[int, str]]:
    """Yield (line number, digest) of the entries of the list."""
    path = _suppression_file()
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            key_id, digest = entry["key_id"], entry["digest"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}, line {number}: not an entry of a suppression list") from None
        if key_id != key.id:
            raise LineageError(
                f"{path}, line {number} was made with the key {key_id}, and the key in use is "
                f"{key.id}: records deleted then cannot be recognised; set UNLEARN_KEY to that key"
            )
        yield number, digest


def check_suppressed(records: Records, key: Key | None = None) -> None:
    """Refuse training data that holds a record deleted before.

    Args:
        records: what is about to be trained on.
        key: the key of the digests; loaded when absent.

    Raises:
        SuppressedError: naming the records found on the list.
    """
    path = _suppression_file()
    if not path.is_file():
        return
    key = key or Key.load()
    listed = {digest: number for number, digest in _suppressed(key)}
    found = [(r.id, listed[d]) for r in records if (d := key.digest(r)) in listed]
    if found:
        names = ", ".join(f"{name!r} (line {line})" for name, line in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise SuppressedError(
            f"{records.source}: {len(found)} record(s) were deleted before and are on the "
            f"suppression list {path}: {names}{more}; leave them out with --exclude"
        )
