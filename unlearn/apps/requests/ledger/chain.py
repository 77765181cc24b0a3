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
import re
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
    if not _same(head_mac(key, ledger, head.seq, head.hash), head.mac):
        return "the head of the history was written without the ledger's key"
    if head.seq > seq:
        return f"the end of the history was cut off: it ends at {seq}, and {head.seq} were written"
    if head.seq < seq:
        return f"the history goes on after entry {head.seq}, which its head does not know"
    if head.hash != digest:
        return f"history entry {seq}, the last one, is not the one that the head names"
    return None


def first_break(
    entries: Iterable[Entry], key: Key | None, last: tuple[int, str] = (0, START)
) -> Iterator[str]:
    """Yield what is wrong with the first entry that does not follow from those before it.

    Args:
        entries: in order of their numbers.
        key: the ledger's key; None leaves the MACs of entries out. Where the head is sound and
            names the hash of the last entry, it speaks for all.
        last: number and hash of the entry before.

    Yields:
        At most one sentence; nothing when the chain holds.
    """
    seq, previous = last
    for expected, entry in enumerate(entries, start=seq + 1):
        if entry.seq != expected:
            yield f"history entry {expected} is missing: the next one there is {entry.seq}"
            return
        if link(previous, entry.content) != entry.hash:
            yield f"{_name(entry)} is not what was written, or what was before it has changed"
            return
        if key is not None and not _same(entry_mac(key, entry.hash), entry.mac):
            yield f"{_name(entry)} was written without the ledger's key"
            return
        previous = entry.hash


def _same(mac: str, given: Any) -> bool:
    """Compare a MAC with what a database gave in its place, which may be anything."""
    return hmac.compare_digest(mac.encode(), str(given).encode(errors="replace"))


def _name(entry: Entry) -> str:
    """Name an entry by its number, and by the request that it says it is of, if it does."""
    found = re.search(r'"request":"([0-9a-f]{12})"', str(entry.content)[:1_000_000])
    return f"history entry {entry.seq}" + (f" (request {found[1]})" if found else "")
