"""Which unseen records are the twins of forgotten ones: by a file, or as canaries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unlearn.canaries.pairs import Canaries
from unlearn.errors import DataError
from unlearn.strict_json import read_json_file
from unlearn_eval.results.record_names import ids_of
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.verdict.evidence import Twins

__all__ = ["canaries_of", "check_file", "twins_of"]


def twins_of(path: Path, after: Mapping[str, TokenScores]) -> tuple[Twins, bool]:
    """Read the twins of each forgotten record, and whether the file says that a coin chose.

    Raises DataError if it is no file of twins, or names what was not measured.
    """
    try:
        content = read_json_file(path)
        named = dict(content["twins"].items())
        claimed = bool(content.get("randomised", False))
        return _paired(path, after, named, randomised=False), claimed
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: not a file of twins: {error!r}; it holds "
            '{"twins": {"forget id": ["holdout id"]}}'
        ) from error


def canaries_of(path: Path, noted: Any, after: Mapping[str, TokenScores]) -> Twins:
    """Read the pairs that an audit of canaries holds.

    Raises DataError if they are not those that were measured.
    """
    try:
        pairs = {str(name): [str(other)] for name, other in noted["pairs"].items()}
        known = bool(noted["sha256"]) and set(pairs) == set(after["forget"].ids)
    except (KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise DataError(f"{path}, canaries: not the pairs that were measured; run the audit again")
    return _paired(path, after, pairs, randomised=True)


def _paired(
    path: Path, after: Mapping[str, TokenScores], pairs: Mapping[str, Any], *, randomised: bool
) -> Twins:
    """Find named twins among the scores; one is named by itself or in a list."""
    named = {str(k): [v] if isinstance(v, str) else list(v) for k, v in pairs.items()}
    forgotten = ids_of(after["forget"].ids, named)
    unseen = after["holdout"].ids if "holdout" in after else ()
    twin_ids = [twin for twins in named.values() for twin in twins if isinstance(twin, str)]
    at = {name: i for i, name in enumerate(ids_of(unseen, twin_ids))}
    for name in forgotten:
        if name not in named:
            raise DataError(f"{path}: no twins of record {name!r}")
        unknown = [twin for twin in named[name] if twin not in at]
        if unknown:
            raise DataError(f"{path}: the twin {unknown[0]!r} of {name!r} is not in the holdout")
    counts = {len(named[name]) for name in forgotten}
    if len(counts) > 1 or 0 in counts:
        raise DataError(f"{path}: every record needs the same number of twins, one or more")
    whose: dict[str, str] = {}
    for name in forgotten:
        for twin in named[name]:
            if twin in whose:
                raise DataError(
                    f"{path}: {twin!r} is a twin of {whose[twin]!r} and again of {name!r}; pairs "
                    "are taken to be independent: give every record twins of its own"
                )
            whose[twin] = name
    positions = [[at[twin] for twin in named[name]] for name in forgotten]
    return Twins(np.array(positions, dtype=np.int64), randomised)


def check_file(file: str | Path, noted: Mapping[str, Any]) -> None:
    """Refuse a file of canaries that is not the one an audit was made with.

    Raises DataError naming the file and what does not agree.
    """
    canaries = Canaries.read(file)
    if canaries.commitment.sha256 != noted["sha256"]:
        raise DataError(
            f"{file} is not the file of canaries that the audit was made with (SHA-256 "
            f"{str(noted['sha256'])[:12]}…), to which the adapter's lineage commits"
        )
    known = {pair.included.id: pair.left_out.id for pair in canaries.pairs}
    wrong = [name for name, other in noted["pairs"].items() if known.get(name) != other]
    if wrong:
        raise DataError(
            f"{file}: {len(wrong)} pair(s) of the audit are not as the coin fell; run the audit "
            "again"
        )
