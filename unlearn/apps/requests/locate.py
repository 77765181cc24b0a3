"""Find the records that a request is about: named ones, exact matches, and near-duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from unlearn.apps.requests.embeddings import Encoder, alike_in_meaning
from unlearn.apps.requests.secrets_in_text import (
    Elsewhere,
    normal,
    secrets_elsewhere,
    texts_of,
    value_pattern,
)
from unlearn.data.near_duplicates import near_duplicates
from unlearn.data.readers import read_rows
from unlearn.data.records import Records
from unlearn.data.selectors import find
from unlearn.data.splits import apart
from unlearn.errors import SelectionError, did_you_mean

__all__ = ["Elsewhere", "Located", "Near", "find_records", "locate"]

NEAR = 0.8
"""Least Jaccard similarity of a near-duplicate unless told otherwise; not from a paper."""

MEANING = 0.9
"""Least cosine of two records that are taken to say the same; not from a paper either."""


class Near(NamedTuple):
    """A record that nearly repeats a located one: in its characters, or in its meaning."""

    id: str
    like: str
    similarity: float
    by: Literal["text", "meaning"]


@dataclass(frozen=True)
class Located:
    """What a search found.

    Attributes:
        records: those that the selectors name.
        near: others that nearly repeat one of them, those by text first; for confirmation.
        elsewhere: secrets of `records` that records to be kept hold too.
    """

    records: Records
    near: tuple[Near, ...]
    elsewhere: tuple[Elsewhere, ...]


def find_records(source: str, records: Records, selectors: Sequence[str]) -> list[int]:
    """Return the positions of the records that any of some selectors names.

    Args:
        source: the file that the records come from; its own columns are searched.
        records: as loaded from there.
        selectors: IDS as everywhere, or `text:…` (a field that is exactly this), `contains:…`
            (stands by itself in a field), or `field:NAME=VALUE` (any column of the file).

    Returns:
        Positions, ascending.

    Raises:
        SelectionError: naming a selector that finds nothing.
    """
    positions: set[int] = set()
    for selector in selectors:
        kind, mark, rest = selector.strip().partition(":")
        search = _SEARCHES.get(kind) if mark else None
        if search is None:
            positions.update(_named(records, selector))
            continue
        here = search(source, records, rest)
        if not here:  # without the words: they may be what must not be in a log
            raise SelectionError(f"{kind}: names no record of {records.source}")
        positions.update(here)
    if not positions:
        raise SelectionError("name the records: ids, @file, subject:…, text:…, field:NAME=VALUE")
    return sorted(positions)


def _named(records: Records, selector: str) -> list[int]:
    """Find records by id and the like, and repeat no words that a selector may have been."""
    whole = [i for i, name in enumerate(records.ids) if name == selector.strip()]
    if whole:  # an id may hold a comma or a colon
        return whole
    kind, mark, _ = selector.strip().partition(":")
    try:
        return find(records, selector)
    except SelectionError:
        if not mark or kind == "rows" or kind.startswith("@"):
            raise
    if kind == "subject":
        raise SelectionError(f"subject: names no record of {records.source}")
    hint = did_you_mean(kind.casefold(), [*_SEARCHES, "subject", "rows"])
    raise SelectionError(
        f"a selector with a colon is no id of {records.source}, and begins with no kind{hint}; "
        "kinds are subject:, rows:, text:, contains: and field:NAME=VALUE"
    )


def _exact(source: str, records: Records, wanted: str) -> list[int]:
    plain = " ".join(normal(wanted).split())
    return [
        i
        for i, record in enumerate(records)
        if any(" ".join(normal(text).split()) == plain for _, text in texts_of(record))
    ]


def _containing(source: str, records: Records, wanted: str) -> list[int]:
    pattern = value_pattern(wanted)
    if pattern is None:
        raise SelectionError("contains: needs a letter or a digit")
    return [
        i
        for i, record in enumerate(records)
        if any(pattern.search(normal(text)) for _, text in texts_of(record))
    ]


def _column(source: str, records: Records, condition: str) -> list[int]:
    name, mark, value = condition.partition("=")
    if not mark or not name:
        raise SelectionError("write field:NAME=VALUE")
    rows = [row for _, row in read_rows(source)]
    known = sorted({str(key) for row in rows for key in row})
    if name not in known:
        raise SelectionError(f"{records.source} has no column {name!r}{did_you_mean(name, known)}")
    return [i for i, row in enumerate(rows) if _equals(row.get(name), value)]


def _equals(cell: Any, value: str) -> bool:
    """Compare as text; a list equals when one of its elements does."""
    if isinstance(cell, list | tuple):
        return any(_equals(part, value) for part in cell)
    if isinstance(cell, bool):
        return value.lower() == str(cell).lower()
    return cell is not None and normal(str(cell)).strip() == normal(value).strip()


_SEARCHES: Mapping[str, Callable[[str, Records, str], list[int]]] = {
    "text": _exact,
    "contains": _containing,
    "field": _column,
}


def locate(
    source: str,
    selectors: Sequence[str],
    *,
    retain: str | None = None,
    near: float | None = NEAR,
    encoder: Encoder | None = None,
    meaning: float = MEANING,
    include: Iterable[str] = (),
) -> Located:
    """Find a request's records, what nearly repeats them, and their secrets elsewhere.

    Args:
        source: the data that the model was trained on.
        selectors: see `find_records`.
        retain: the records to keep, when `source` no longer holds the rest; near-duplicates are
            looked for among them, too.
        near: least similarity of a near-duplicate; None looks for none.
        encoder: finds records that say the same in other words, too.
        meaning: least similarity of those, a cosine.
        include: ids of near-duplicates that were confirmed: they count as located.

    Returns:
        What was found.

    Raises:
        UnlearnError: if the data cannot be read, or a selector finds nothing.
    """
    data = Records.load(source)
    kept_apart = None if retain is None else Records.load(retain)
    everything = data if kept_apart is None else _with_others(data, kept_apart)
    named = find_records(source, data, selectors)
    places = sorted({*named, *_confirmed(everything, include)})
    forget_records = everything.take(places)
    rest = everything.take(sorted(set(range(len(everything))) - set(places)))
    pairs: list[Near] = []
    if near:
        near_pairs = near_duplicates(forget_records, rest, near)
        pairs += [Near(name, like, alike, "text") for like, name, alike in near_pairs]
    if encoder:
        near_pairs = alike_in_meaning(forget_records, rest, encoder, meaning)
        pairs += [Near(name, like, alike, "meaning") for like, name, alike in near_pairs]
    retain_records = rest if kept_apart is None else apart(kept_apart, forget_records)
    return Located(
        forget_records, _nearest(pairs), tuple(secrets_elsewhere(forget_records, retain_records))
    )


def _with_others(data: Records, others: Records) -> Records:
    """Return records followed by those of other content, under names that are not taken."""
    import datasets

    names = set(data.ids)
    rows = []
    for record in apart(others, data):
        row = {name: value for name, value in asdict(record).items() if value}
        while row["id"] in names:
            row["id"] += "#retain"
        names.add(row["id"])
        rows.append(row)
    if not rows:
        return data
    more = Records.from_rows(rows, others.source)
    both = datasets.concatenate_datasets([data.dataset, more.dataset])
    return Records(both, data.source, data.repeated)


def _confirmed(records: Records, names: Iterable[str]) -> list[int]:
    """Return where records are by id, to the letter: an id may hold a comma, or begin with @."""
    at = {name: i for i, name in enumerate(records.ids)}
    for name in (names := list(names)):
        if name not in at:
            hint = did_you_mean(name, at)
            raise SelectionError(f"{records.source} has no record {name!r}{hint}")
    return [at[name] for name in names]


def _nearest(pairs: Iterable[Near]) -> tuple[Near, ...]:
    """Keep of each record the pair that is most alike; what is alike in text needs no meaning."""
    best: dict[str, Near] = {}
    for pair in pairs:
        known = best.get(pair.id)
        if known is None or (pair.by == known.by and pair.similarity > known.similarity):
            best[pair.id] = pair
    return tuple(sorted(best.values(), key=lambda pair: (pair.by != "text", -pair.similarity)))
