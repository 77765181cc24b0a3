"""The history's hash chain: how an entry is bound to all before it, and how that is checked.

The hash of entry n is SHA-256(hash of entry n − 1 ‖ newline ‖ canonical content of n), 64 zeros
standing for the hash before the first; its MAC is HMAC-SHA256(key, "entry" ‖ hash). The head row
holds the last number and hash under a MAC of its own. So without the key nobody can edit, remove,
insert or reorder entries, or cut the end off, unnoticed.

What cannot be noticed from the ledger alone: that the whole ledger, head included, was put back to
an earlier copy; and changes by somebody who holds the key. Against the first, note the head that
`unlearn request check` prints somewhere else, and pass it as `--expect-head` later.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from unlearn.provenance.keys import Key

__all__ = [
    "START",
    "Entry",
    "canonical",
    "entry_mac",
    "first_break",
    "head_mac",
    "head_problem",
    "link",
]

START = "0" * 64


class Entry(NamedTuple):
    """A row of the history."""

    seq: int
    request: str
    content: str
    hash: str
    mac: str


def canonical(content: Any) -> str:
    """Return the one way to write a JSON value: keys sorted, no spaces, ASCII only."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def link(previous: str, content: str) -> str:
    """Return the hash of an entry with this content after one with that hash."""
    return hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()


def entry_mac(key: Key, digest: str) -> str:
    """Return the MAC of an entry's hash."""
    return key.mac(b"unlearn ledger entry\0" + digest.encode())


def head_mac(key: Key, ledger: str, seq: int, digest: str) -> str:
    """Return the MAC of the head: which ledger, how many entries, the last one's hash."""
    return key.mac(f"unlearn ledger head\0{ledger}\0{seq}\0{digest}".encode())


def head_problem(key: Key, ledger: str, head: Any, last: tuple[int, str]) -> str | None:
    """Return what is wrong with the head, or with where the history ends.

    Args:
        key: the ledger's key.
        ledger: its id.
        head: the row: `seq`, `hash` and `mac`.
        last: number and hash of the newest entry there is; (0, `START`) where there is none.

    Returns:
        A sentence; None when the history ends where the head says.
    """
    seq, digest = last
    if not hmac.compare_digest(head_mac(key, ledger, head.seq, head.hash), head.mac):
        return "the head of the history was written without the ledger's key"
    if head.seq > seq:
        return f"the end of the history was cut off: it ends at {seq}, and {head.seq} were written"
    if head.seq < seq:
        return f"the history goes on after entry {head.seq}, which its head does not know"
    if head.hash != digest:
        return f"history entry {seq}, the last one, is not the one that the head names"
    return None


def first_break(entries: Iterable[Entry], key: Key) -> Iterator[str]:
    """Yield what is wrong with the first entry that does not follow from those before it.

    Args:
        entries: in order of their numbers.
        key: the ledger's key.

    Yields:
        At most one sentence; nothing when the chain holds.
    """
    previous = START
    for expected, entry in enumerate(entries, start=1):
        name = f"history entry {entry.seq} (request {entry.request})"
        if entry.seq != expected:
            yield f"history entry {expected} is missing: the next one there is {entry.seq}"
            return
        if link(previous, entry.content) != entry.hash:
            yield f"{name} is not what was written, or what was before it has changed"
            return
        if not hmac.compare_digest(entry_mac(key, entry.hash), entry.mac):
            yield f"{name} was written without the ledger's key"
            return
        try:
            inside = json.loads(entry.content)
            same = (inside["seq"], inside["request"]) == (entry.seq, entry.request)
        except (ValueError, KeyError, TypeError, RecursionError):
            same = False
        if not same:
            yield f"{name}: the row's number or request differs from its content"
            return
        previous = entry.hash
