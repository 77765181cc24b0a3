"""Find records that nearly repeat others: the same text but for a name, a number or a typing error.

Two texts are compared by the 5 characters that begin at each position (their shingles), case and
white space made alike. Characters rather than words, as records are short and in any language; 5
is what Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets" (section 3.2.2), find right for
e-mails. Similarity is Jaccard's index of both sets, |A ∩ B| / |A ∪ B|: 1 for equal sets.

Candidates come from MinHash signatures in bands (the same book, section 3.4), so that the time does
not grow with the number of pairs; the similarity of each is then computed exactly.
"""

from __future__ import annotations

import math
import unicodedata
import zlib
from collections.abc import Iterable
from itertools import tee
from typing import Any

from unlearn.data.record import Record
from unlearn.errors import OptionError

__all__ = ["near_duplicates", "shingles", "similarity"]

_WIDTH = 5
_HASHES = 128
_MISSED = 1e-4


def near_duplicates(
    records_a: Iterable[Record], records_b: Iterable[Record], threshold: float = 0.8
) -> list[tuple[str, str, float]]:
    """Return the pairs of records of two collections that are at least so similar.

    A pair at the threshold is missed with probability 10⁻⁴ at most, one above it less often; equal
    texts never are. The same input gives the same pairs.

    Args:
        records_a: some records; the fewer of both, as they are held and indexed.
        records_b: others, looked at one by one.
        threshold: smallest similarity, above 0 and at most 1; the default is chosen here, after the
            edit similarity that Lee et al. (2107.06499, section 4.2) ask of near-duplicates.

    Returns:
        (id in the first, id in the second, similarity), in the order of both collections.

    Raises:
        OptionError: if the threshold is out of range.
    """
    from datasketch import MinHash, MinHashLSH

    if not 0 < threshold <= 1:
        raise OptionError(f"a similarity of {threshold:g}: it must be above 0 and at most 1")
    first = list(records_a)
    if not first:
        return []
    bands, rows = _bands(threshold)

    def signatures(records: Iterable[Record]) -> Any:
        # of one record at a time: the shingles of all of them are many times their text
        content = ([shingle.encode() for shingle in shingles(record)] for record in records)
        return MinHash.generator(content, num_perm=_HASHES, seed=1, hashfunc=zlib.crc32)

    index = MinHashLSH(num_perm=_HASHES, params=(bands, rows))
    for i, signature in enumerate(signatures(first)):
        index.insert(i, signature)
    found = []
    ours, theirs = tee(records_b)
    for j, (record, signature) in enumerate(zip(ours, signatures(theirs), strict=True)):
        candidates = index.query(signature)
        own = shingles(record) if candidates else frozenset()
        alike = {i: similarity(shingles(first[i]), own) for i in candidates}
        found += [(i, j, record.id, value) for i, value in alike.items() if value >= threshold]
    return [(first[i].id, name, value) for i, _, name, value in sorted(found)]


def shingles(record: Record) -> frozenset[str]:
    """Return the runs of 5 characters in a record's text, or the text itself where it is shorter.

    Args:
        record: the record; its fields or turns count as one text.

    Returns:
        At least one string.
    """
    text = unicodedata.normalize("NFC", " ".join(record.parts))
    text = " ".join(text.casefold().split())
    last = max(0, len(text) - _WIDTH)
    return frozenset(text[i : i + _WIDTH] for i in range(last + 1))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Return Jaccard's index |A ∩ B| / |A ∪ B| of two sets that are not empty."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def _bands(threshold: float) -> tuple[int, int]:
    """Return bands and rows of each, the longest rows that miss few pairs at the threshold.

    A pair of similarity s shares a row with probability s, hence no band with (1 − s^r)^b.
    """
    fits = [
        r
        for r in range(1, _HASHES // 2 + 1)
        if threshold == 1 or (_HASHES // r) * math.log1p(-(threshold**r)) <= math.log(_MISSED)
    ]
    rows = max(fits, default=1)
    return _HASHES // rows, rows
