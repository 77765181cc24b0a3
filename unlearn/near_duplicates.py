"""Find records that say nearly the same: MinHash to propose pairs, exact Jaccard to decide."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from unlearn._record import Record

if TYPE_CHECKING:
    from datasketch import MinHash

__all__ = ["near_duplicates", "shingles"]

_WIDTH = 5
_PERMUTATIONS = 128
_SLACK = 0.75


def near_duplicates(
    records_a: Iterable[Record], records_b: Iterable[Record], threshold: float = 0.8
) -> list[tuple[str, str, float]]:
    """Return the pairs whose shingles overlap by at least a threshold.

    J(A, B) = |A ∩ B| / |A ∪ B| over the sets of 5-character shingles. Candidates come from
    locality-sensitive hashing at three quarters of the threshold, weighted against misses, so
    that few pairs above the threshold are lost; each is then computed exactly.

    Args:
        records_a: first members of the pairs.
        records_b: second members.
        threshold: least similarity, in (0, 1].

    Returns:
        (id of a, id of b, similarity), the most similar first.
    """
    from datasketch import MinHashLSH

    theirs = {record.id: shingles(record) for record in records_b}
    index = MinHashLSH(threshold=_SLACK * threshold, num_perm=_PERMUTATIONS, weights=(0.1, 0.9))
    for name, parts in theirs.items():
        index.insert(name, _signature(parts))
    found = []
    for record in records_a:
        own = shingles(record)
        for name in index.query(_signature(own)):
            similarity = len(own & theirs[name]) / len(own | theirs[name])
            if similarity >= threshold:
                found.append((record.id, str(name), similarity))
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def shingles(record: Record) -> frozenset[str]:
    """Return the 5-character pieces of a record's text in NFC, case folded, spaces single."""
    turns = [turn["content"] for turn in record.messages or ()]
    parts = [record.text, record.prompt, record.completion, *turns]
    joined = unicodedata.normalize("NFC", " ".join(part for part in parts if part)).casefold()
    text = " ".join(joined.split())
    return frozenset(text[i : i + _WIDTH] for i in range(max(1, len(text) - _WIDTH + 1)))


def _signature(parts: Iterable[str]) -> MinHash:
    from datasketch import MinHash

    signature = MinHash(num_perm=_PERMUTATIONS)
    signature.update_batch([part.encode() for part in parts])
    return signature
