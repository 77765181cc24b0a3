"""Random numbers of private training: a function of (secret, what for, step) only.

Whoever can guess the noise can take it off again, so it comes from a stream cipher under a secret,
not from a seed that a lineage names. As nothing is drawn in sequence, a resumed run has the very
numbers of one that was never interrupted.
"""

from __future__ import annotations

import hmac

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy.special import ndtri

__all__ = ["gaussian", "poisson_sample"]


def _uniform(secret: bytes, label: str, step: int, count: int) -> npt.NDArray[np.float64]:
    """Return numbers between 0 and 1, neither of both, from 53 bits each of ChaCha20."""
    key = hmac.digest(secret, f"{label} {step}".encode(), "sha256")
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * count))
    bits = np.frombuffer(stream, dtype="<u8") >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53


def gaussian(secret: bytes, step: int, count: int) -> npt.NDArray[np.float64]:
    """Return standard normal numbers, by the inverse of their distribution function.

    Args:
        secret: 32 bytes.
        step: of training; the first is 0.
        count: how many.

    Returns:
        float64 [count].
    """
    normal: npt.NDArray[np.float64] = ndtri(_uniform(secret, "noise", step, count))
    return normal


def poisson_sample(secret: bytes, step: int, units: int, rate: float) -> list[int]:
    """Return which units take part in a step: each with probability `rate`, by itself.

    Args:
        secret: 32 bytes.
        step: of training; the first is 0.
        units: how many there are.
        rate: q, of the accountant.

    Returns:
        Their positions, in order; there may be none.
    """
    chosen: list[int] = np.flatnonzero(_uniform(secret, "sample", step, units) < rate).tolist()
    return chosen
