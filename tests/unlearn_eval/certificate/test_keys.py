from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from unlearn.errors import CertificateError
from unlearn_eval.certificate import (
    key_id,
    key_path,
    load_public_key,
    load_signing_key,
    new_signing_key,
)


def test_the_first_use_makes_a_pair_and_later_ones_read_it(tmp_path: Path) -> None:
    key = load_signing_key()
    assert key_path() == tmp_path / "unlearn-home" / "signing.key"
    assert stat.S_IMODE(key_path().stat().st_mode) == 0o600
    assert load_signing_key().private_bytes_raw() == key.private_bytes_raw()
    public = load_public_key(key_path().with_suffix(".pub"))
    assert public.public_bytes_raw() == key.public_key().public_bytes_raw()
    assert sorted(p.name for p in key_path().parent.iterdir()) == ["signing.key", "signing.pub"]


def test_the_key_id_is_the_digest_of_the_raw_public_key() -> None:
    # the public key of RFC 8032, section 7.1, test 1
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    public = ed25519.Ed25519PublicKey.from_public_bytes(raw)
    assert key_id(public) == hashlib.sha256(raw).hexdigest()


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    path = new_signing_key(tmp_path / "own.key")
    before = path.read_bytes()
    with pytest.raises(CertificateError, match="exists"):
        new_signing_key(path)
    assert path.read_bytes() == before
    with pytest.raises(CertificateError, match="ending of the public key"):
        new_signing_key(tmp_path / "own.pub")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_private_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = new_signing_key(tmp_path / "own.key")
    path.chmod(mode)
    with pytest.raises(CertificateError, match="chmod 600"):
        load_signing_key(path)


def test_files_that_hold_no_such_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="unlearn key new"):
        load_signing_key(tmp_path / "none.key")
    junk = tmp_path / "junk"
    junk.write_text("-----BEGIN NOTHING-----")
    junk.chmod(0o600)
    with pytest.raises(CertificateError, match="does not hold a private key"):
        load_signing_key(junk)
    with pytest.raises(CertificateError, match="does not hold a public key"):
        load_public_key(junk)
    own = new_signing_key(tmp_path / "own.key")
    with pytest.raises(CertificateError, match="is a private key"):
        load_public_key(own)
    with pytest.raises(CertificateError, match="does not hold a private key"):
        load_signing_key(_copy(own.with_suffix(".pub"), tmp_path / "copy"))


def _copy(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes())
    target.chmod(0o600)
    return target


def test_other_kinds_and_locked_keys_are_refused(tmp_path: Path) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path = tmp_path / "rsa.key"
    path.touch(0o600)
    path.write_bytes(other.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    with pytest.raises(CertificateError, match="Ed25519 is needed"):
        load_signing_key(path)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(other.public_key().public_bytes(pem, form))
    with pytest.raises(CertificateError, match="Ed25519 is needed"):
        load_public_key(path)
    locked = ed25519.Ed25519PrivateKey.generate()
    secret = serialization.BestAvailableEncryption(b"pass phrase")
    path.write_bytes(locked.private_bytes(pem, pkcs8, secret))
    with pytest.raises(CertificateError, match="pass phrase"):
        load_signing_key(path)
