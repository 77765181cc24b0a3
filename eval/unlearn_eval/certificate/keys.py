"""The key pair of certificates: Ed25519, the private key in a file for its owner only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from unlearn.errors import CertificateError
from unlearn.files import staged_file

__all__ = ["key_id", "key_path", "load_public_key", "load_signing_key", "new_signing_key"]


def key_path() -> Path:
    """Return where the private key lies: `signing.key` in `UNLEARN_HOME` (or `~/.unlearn`)."""
    from unlearn.provenance.keys import home

    return home() / "signing.key"


def key_id(key: Ed25519PublicKey) -> str:
    """Return SHA-256 of the raw 32 bytes of a public key, in hexadecimal.

    Args:
        key: the public key.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def new_signing_key(path: str | Path | None = None) -> Path:
    """Make a key pair: the private key (mode 600), and the public one beside it, ending in `.pub`.

    Args:
        path: file of the private key; by default `key_path()`.

    Returns:
        The file of the private key.

    Raises:
        CertificateError: if the file exists; certificates signed with it would lose their key.
    """
    path = Path(path) if path is not None else key_path()
    if path.suffix == ".pub":
        raise CertificateError(f"{path}: .pub is the ending of the public key; choose another")
    if not _make(path):
        raise CertificateError(f"{path} exists: choose another file, or keep using that key")
    load_signing_key(path)
    return path


def load_signing_key(path: str | Path | None = None) -> Ed25519PrivateKey:
    """Read the private key, and write the public one beside it where that is missing.

    Args:
        path: file of the private key; without it `key_path()`, made on first use.

    Returns:
        The key.

    Raises:
        CertificateError: if there is no such file, others can read it, or it holds something else.
    """
    if path is None:
        path = key_path()
        if not path.exists():
            _make(path)
    path = Path(path)
    data = _read(path, "`unlearn key new` makes one")
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise CertificateError(
            f"the private key {path} can be read by others; run: chmod 600 {path} (and make a new "
            "key if somebody may have copied it)"
        )
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise CertificateError(
            f"{path} is locked with a pass phrase; give a file without one, readable by you only"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path} does not hold a private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise CertificateError(f"{path} holds a key of another kind: Ed25519 is needed")
    public = path.with_suffix(".pub")
    if not public.exists():
        with staged_file(public) as stage:
            stage.write_bytes(
                key.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
    return key


def load_public_key(path: str | Path) -> Ed25519PublicKey:
    """Read a public key.

    Raises CertificateError if the file holds something else.
    """
    data = _read(Path(path), "name the signer's public key")
    if b"PRIVATE KEY" in data:
        raise CertificateError(
            f"{path} is a private key, which should never leave its owner; name the public one, "
            "the file that ends in .pub"
        )
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path} does not hold a public key in PEM form") from None
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError(f"{path} holds a key of another kind: Ed25519 is needed")
    return key


def _make(path: Path) -> bool:
    """Write a new private key; False if the file was there already."""
    data = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A temporary name and a link: two processes starting together agree on one key, and nobody
    # meets half a file.
    fresh = path.with_name(f".{path.name}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)
    except FileExistsError:
        return False
    finally:
        fresh.unlink()
    return True


def _read(path: Path, hint: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read the key {path}: {error.strerror}; {hint}") from None
