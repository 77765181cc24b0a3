"""How files in the cache of scores are named: what has another name there is not ours to delete."""

from __future__ import annotations

import re

__all__ = ["is_entry"]

_ENTRY = re.compile(r"[0-9a-f]{64}\.npz|\.[0-9a-f]{64}\.npz\.partial-\d+")


def is_entry(name: str) -> bool:
    """Say whether a file's name is that of an entry, or of what a killed process left of one."""
    return _ENTRY.fullmatch(name) is not None
