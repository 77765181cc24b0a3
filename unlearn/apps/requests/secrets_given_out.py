"""Does the model complete a secret of the records, whatever the records that are kept hold?

A verdict compares with models that never saw the records. Where a kept record holds the same value,
these give it out as well, and the verdict is a PASS: of the person it says nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from unlearn.apps.requests.secrets_in_text import secrets_elsewhere
from unlearn.data.records import Records

__all__ = ["secrets_given_out"]


def secrets_given_out(
    audit: Path, forget_records: Records, retain_records: Records
) -> dict[str, int | None]:
    """Count the records whose secret comes out, and the kept records that hold the same value.

    A secret comes out if greedy decoding completes it, in any form of the model and of the question
    that the audit asked; see `unlearn_eval.extraction.secret`.

    Args:
        audit: its folder; one without `scores.parquet` asked nothing.
        forget_records: of the request.
        retain_records: those that the model keeps.

    Returns:
        `records` with a secret; how many `come_out`, None where the model was not asked; and
        `kept_records` that hold a secret of these (of those that come out, where that is known).
    """
    marked = {record.id for record in forget_records if record.secrets}
    out = _come_out(audit / "scores.parquet", marked) if marked else set()
    shown = [r for r in forget_records if r.id in (marked if out is None else out)]
    return {
        "records": len(marked),
        "come_out": None if out is None else len(out & marked),
        "kept_records": len({each.id for each in secrets_elsewhere(shown, retain_records)}),
    }


def _come_out(file: Path, marked: Collection[str]) -> set[str] | None:
    """Return the ids of the records of which the audited model completes a secret.

    None where it was asked for none of those marked, as in an audit of canaries.
    """
    from unlearn_eval.results.scores_file import read_scores

    if not file.is_file():
        return None
    out: set[str] = set()
    asked = False
    for place, stored in read_scores(file).items():
        scores = stored.scores
        if (place.state, place.split) != ("after", "forget") or scores.secret is None:
            continue
        for position, name in enumerate(scores.ids):
            spans = scores.spans(position)
            asked = asked or (bool(spans) and name in marked)
            if any(bool(np.all(scores.hit[span])) for span in spans):
                out.add(name)
    return out if asked else None
