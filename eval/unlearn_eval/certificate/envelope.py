"""Sign a statement and open what was signed: Ed25519 in a DSSE envelope.

The signature is over the bytes that are sent, never over JSON rewritten in some canonical form, so
that nothing depends on how a program writes JSON.

Source: Dead Simple Signing Envelope, version 1 (github.com/secure-systems-lab/dsse, protocol.md and
envelope.md); Ed25519: RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from unlearn.files import staged_file
from unlearn.strict_json import NotJsonError, parse_json
from unlearn_eval.certificate.keys import key_id, load_signing_key

__all__ = [
    "PAYLOAD_TYPE",
    "UnverifiedError",
    "open_envelope",
    "pae",
    "read_json",
    "sign",
    "unsigned_payload",
    "write_certificate",
]

PAYLOAD_TYPE = "application/vnd.unlearn.deletion-certificate+json"


class UnverifiedError(Exception):
    """Why bytes are not a certificate signed with the given key."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding.

    PAE(t, p) = "DSSEv1" SP LEN(t) SP t SP LEN(p) SP p, LEN in bytes as a decimal number. The type
    is part of it: what was signed as another kind of document cannot pass for a certificate.
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(statement: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Put a statement into a signed envelope.

    Args:
        statement: from `build_certificate`.
        key: the private key.

    Returns:
        The content of `certificate.json`.
    """
    payload = json.dumps(statement, indent=1, allow_nan=False).encode()
    signature = key.sign(pae(PAYLOAD_TYPE, payload))
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": key_id(key.public_key()),
                "sig": base64.b64encode(signature).decode(),
            }
        ],
    }


def write_certificate(
    statement: Mapping[str, Any], path: str | Path, key: str | Path | None = None
) -> dict[str, Any]:
    """Sign a statement and write `certificate.json`.

    Args:
        statement: from `build_certificate`.
        path: where to.
        key: file of the private key; without it the user's own, made on first use.

    Returns:
        The envelope that was written.

    Raises:
        CertificateError: if the key cannot be used.
    """
    envelope = sign(statement, load_signing_key(key))
    with staged_file(path) as stage:
        stage.write_text(json.dumps(envelope, indent=1) + "\n", encoding="utf-8")
    return envelope


def open_envelope(data: bytes, key: Ed25519PublicKey) -> bytes:
    """Return the payload of an envelope if the holder of a key signed it as a certificate.

    What the envelope itself says about keys is not looked at: one that is signed with another key
    and names this one fails. Of several signatures one must be the key's.

    Args:
        data: the bytes of `certificate.json`.
        key: the public key to trust.

    Returns:
        The payload, exactly as it was signed.

    Raises:
        UnverifiedError: if anything is not as it should be.
    """
    envelope = read_json(data)
    if not isinstance(envelope, dict):
        raise UnverifiedError("this is not a certificate: a JSON object is expected")
    kind = envelope.get("payloadType")
    if kind != PAYLOAD_TYPE:
        raise UnverifiedError("this is another kind of document, not a certificate of a deletion")
    payload = _decoded(envelope.get("payload"), "payload")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or not signatures:
        raise UnverifiedError("it carries no signature")
    for entry in signatures:
        if not isinstance(entry, dict):
            raise UnverifiedError("its signatures are not written as DSSE has them")
        signature = _decoded(entry.get("sig"), "signature")
        try:
            key.verify(signature, pae(PAYLOAD_TYPE, payload))
        except InvalidSignature:
            continue
        return payload
    raise UnverifiedError(
        "the signature does not fit: the text was changed, or another key signed it"
    )


def unsigned_payload(envelope: Mapping[str, Any]) -> Any:
    """Return what an envelope says, without looking at its signature: for display only.

    Args:
        envelope: the content of `certificate.json`.

    Returns:
        What the payload's JSON holds.

    Raises:
        UnverifiedError: if there is no JSON inside.
    """
    return read_json(_decoded(envelope.get("payload"), "payload"))


def read_json(data: bytes) -> Any:
    """Parse JSON that every program reads in the same way.

    Args:
        data: UTF-8 text.

    Returns:
        What it holds.

    Raises:
        UnverifiedError: if it is no JSON, or holds what `parse_json` refuses.
    """
    try:
        return parse_json(data)
    except NotJsonError as error:
        raise UnverifiedError(f"not JSON: {error}") from None


def _decoded(text: Any, what: str) -> bytes:
    """Decode base64 in either alphabet, as DSSE allows, and nothing else."""
    if not isinstance(text, str):
        raise UnverifiedError(f"it has no {what}")
    try:
        return base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        raise UnverifiedError(f"its {what} is not base64") from None
