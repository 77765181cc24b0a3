"""Encrypt what a ledger must be able to read again: paths, selectors, records.

AES-256-GCM with a fresh 96-bit nonce for each message. The key is HMAC-SHA256(lineage key,
"unlearn sealing" ‖ ledger), so whoever may compute record digests, and nobody else, can open it.
The associated data name the ledger and what the message is for: one put in another's place does not
open.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from unlearn.errors import LedgerError
from unlearn.provenance.keys import Key

__all__ = ["Sealer"]

_NONCE = 12


class Sealer:
    """Seals and opens messages of one ledger.

    Args:
        key: the user's key.
        ledger: the ledger's id.
    """

    def __init__(self, key: Key, ledger: str) -> None:
        self._key_id = key.id
        self._ledger = ledger
        self._cipher = AESGCM(bytes.fromhex(key.mac(f"unlearn sealing\0{ledger}".encode())))

    def seal_bytes(self, content: bytes, purpose: str) -> bytes:
        """Return nonce ‖ ciphertext ‖ tag.

        Args:
            content: what to hide.
            purpose: what it is for; needed again to open it.

        Returns:
            The sealed message.
        """
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, content, self._about(purpose))

    def open_bytes(self, sealed: bytes, purpose: str) -> bytes:
        """Return what `seal_bytes` was given.

        Raises LedgerError if it was changed, is another's, or was sealed under another key.
        """
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._about(purpose))
        except (InvalidTag, ValueError):
            raise LedgerError(
                f"{purpose}: cannot be opened with the key {self._key_id}: it was changed, belongs "
                "elsewhere, or was sealed under another key"
            ) from None

    def seal(self, value: Any, purpose: str) -> str:
        """Return a JSON value sealed, as text.

        Args:
            value: what to hide.
            purpose: what it is for.

        Returns:
            Base64 of the sealed message.
        """
        return base64.b64encode(self.seal_bytes(json.dumps(value).encode(), purpose)).decode()

    def open(self, text: str, purpose: str) -> Any:
        """Return what `seal` was given.

        Args:
            text: what `seal` returned.
            purpose: what it is for.

        Returns:
            The JSON value.

        Raises:
            LedgerError: if it cannot be opened.
        """
        try:
            sealed = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise LedgerError(f"{purpose}: not a sealed value") from None
        return json.loads(self.open_bytes(sealed, purpose))

    def _about(self, purpose: str) -> bytes:
        return f"{self._ledger}\0{purpose}".encode()
