"""Which policies come with the toolkit, told by hash: nothing heavy is imported to compare them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["SHIPPED", "content_hash", "origin", "posing"]

SHIPPED: Mapping[str, str] = {
    "f9b39bf6637e478fadc466a388e4e7076722c126aecdc7124a57d1a5d4c46866": "quick",
    "067a12597178c5a4bbc62b25102700de0788c25cf126df81b12a00e860115b53": "standard",
    "a8b770fd9544a6945e9f80805ab28fa6b0937577ae6feefd9026b341ea9ba0fe": "strict",
    "c0dffaa9b9c3bda8fa2e0b28325a62d61ba3f09e20bd8edfa6eb030eeacc2e34": "quick",
    "6512666e165008ea51c0a31d0a148a3b2530b723804fb2b68b120986f22a5009": "standard",
    "d8e1d7f0195a00a9daf1d74c4664c889f3071a65a42115310f23a266779e7cab": "strict",
    "cd7e70339379fd6d484fadf74130630125ac925d2a7631375c4454bc9fe0c6bf": "replay",
}
"""Names by hash. One that is changed gets a new line and keeps the old: certificates name it."""


def content_hash(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a policy's canonical JSON: keys sorted, no spaces, ASCII.

    Args:
        content: of the policy.

    Returns:
        64 hexadecimal digits.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def posing(policy: Mapping[str, Any]) -> bool:
    """Say whether a policy has the name of one that comes with the toolkit, and is another.

    Args:
        policy: its `name` and `sha256`.

    Returns:
        Whether it does.
    """
    name = policy["name"].strip().casefold()
    return name in SHIPPED.values() and SHIPPED.get(policy["sha256"]) != name


def origin(policy: Mapping[str, Any]) -> str:
    """Say whether a policy is one that comes with the toolkit, by its hash and not by its name.

    Args:
        policy: its `name` and `sha256`.

    Returns:
        Words.
    """
    known = SHIPPED.get(policy["sha256"])
    if known == policy["name"]:
        return f"the policy {known!r} that comes with unlearn, by its hash"
    if known is not None:
        return (
            f"called {policy['name']!r}; by its hash the policy {known!r} that comes with unlearn"
        )
    if posing(policy):
        return (
            f"called {policy['name']!r}, but not the policy of that name that comes with this "
            "version of unlearn"
        )
    return f"called {policy['name']!r}: an own one, none of those that come with unlearn"
