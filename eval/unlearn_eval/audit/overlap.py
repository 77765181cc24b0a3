"""Does the holdout repeat what the models were trained on?"""

from __future__ import annotations

from collections.abc import Mapping

from unlearn.data.near_duplicates import near_duplicates
from unlearn.data.records import Records
from unlearn.data.splits import refuse_shared
from unlearn.errors import DataError

__all__ = ["check_overlap"]

# Pairs of near-duplicates that a note names.
_SHOWN = 5


def check_overlap(parts: Mapping[str, Records], strict: bool) -> list[str]:
    """Refuse a holdout that shares exact copies with the other splits; note what is nearly one.

    Raises DataError for exact copies; if `strict`, for near ones, too.
    """
    if "holdout" not in parts:
        return []
    holdout = parts["holdout"]
    others = [record for split, part in parts.items() if split != "holdout" for record in part]
    refuse_shared(
        holdout,
        others,
        where="--holdout",
        what="record(s) are also in the forget or retain data",
        advice="a holdout must be unseen",
    )
    pairs = near_duplicates(holdout, others)
    if not pairs:
        return []
    nearest: dict[str, str] = {}
    for unseen, other, alike in sorted(pairs, key=lambda pair: -pair[2]):
        nearest.setdefault(unseen, f"{unseen!r} and {other!r} ({alike:.2f})")
    shown = list(nearest.values())[:_SHOWN] + ["…"] * (len(nearest) > _SHOWN)
    note = (
        f"the holdout nearly repeats forget or retain records in {len(nearest)} of its "
        f"{len(holdout)} records: {', '.join(shown)}"
    )
    if strict:
        raise DataError(f"--holdout: {note}; leave these out, or drop --strict to have them noted")
    return [f"{note}; what is alike is partly known to a model that was trained on either"]
