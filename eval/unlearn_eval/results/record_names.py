"""What files of an audit call records: names under the user's key, as ids may be people's names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from unlearn.errors import DataError
from unlearn.provenance.keys import Key

__all__ = ["ids_of", "keyed_name", "keyed_names", "keyed_text", "names_in"]

_KEYED = re.compile(r"keyed:([0-9a-f]{12}):[0-9a-f]{32}")


def keyed_name(record_id: str, key: Key) -> str:
    """Return the name of a record that says nothing of its id to whoever lacks the key.

    `keyed:KEY:MAC`, where MAC is the first 128 bits of HMAC-SHA256(key, "record id" ‖ 0 ‖ id). The
    same id has the same name in every file under one key.

    Args:
        record_id: the id, of any characters.
        key: the user's key.

    Returns:
        The name.
    """
    content = b"record id\0" + record_id.encode("utf-8", "surrogatepass")
    return f"keyed:{key.id}:{key.mac(content)[:32]}"


def keyed_names(stored: Iterable[str], key: Key) -> list[str]:
    """Return the names of records under a key; those that are keyed already stay."""
    return [name if _KEYED.fullmatch(name) else keyed_name(name, key) for name in stored]


def keyed_text(text: str, ids: Iterable[str], key: Key) -> str:
    """Return a message in which ids that it quotes stand as names under a key."""
    quoted = {repr(name): name for name in ids if repr(name) in text}
    for form in sorted(quoted, key=len, reverse=True):
        text = text.replace(form, repr(keyed_name(quoted[form], key)))
    return text


def ids_of(stored: Sequence[str], ids: Iterable[str]) -> list[str]:
    """Return the ids of records that a file names under the user's key.

    Args:
        stored: names of records as the file has them.
        ids: of the records at hand.

    Returns:
        In the order of `stored`, the id; the name as it is where no record at hand has it.

    Raises:
        DataError: if the names are under another key.
    """
    known = {name: record_id for record_id, name in names_in(stored, ids).items()}
    return [known.get(name, name) for name in stored]


def names_in(stored: Collection[str], ids: Iterable[str], key: Key | None = None) -> dict[str, str]:
    """Return what a file calls records at hand, whether it holds ids or names under a key.

    Args:
        stored: names of records as the file has them.
        ids: of the records at hand.
        key: under which keyed names were made; the user's own, where it is needed and absent.

    Returns:
        By id, the name in the file; ids as they are where the file holds no keyed name.

    Raises:
        DataError: if the names are under another key.
    """
    known, ids = set(stored), [*ids]
    keys = {match[1] for name in known if (match := _KEYED.fullmatch(name))}
    # whoever chose an id may have chosen one that looks like a name under a key
    if not keys or known & set(ids):
        return {name: name for name in ids}
    key = key or Key.load()
    if key.id not in keys:
        raise DataError(
            f"the scores name their records under the key {min(keys)}, and the key in use is "
            f"{key.id}: set UNLEARN_KEY to that key, or audit again with --show-ids"
        )
    named = {name: keyed_name(name, key) for name in ids}
    return {name: keyed if keyed in known else name for name, keyed in named.items()}
