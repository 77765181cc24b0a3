"""Read what rows of a ledger hold: whoever can write to the database can put anything there.

That a row was not changed is told by `check`, and before anything is written. What is only shown is
checked for its types, so that a ledger that was tampered with is told in a line.
"""

from __future__ import annotations

from typing import Any

from unlearn.errors import LedgerError
from unlearn_eval.certificate.envelope import UnverifiedError, read_json
from unlearn_eval.certificate.shape import (
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    Maybe,
    MisfitError,
    fit,
    or_null,
)

__all__ = ["EVENT", "FACTS", "parsed"]

_FOLDER = {"digest": Maybe(TEXT), "folder": Maybe(TEXT)}
_VERDICT = {
    "outcome": Maybe(TEXT),
    "tier": Maybe(TEXT),
    "policy": Maybe({"name": Maybe(TEXT), "sha256": Maybe(TEXT), "chosen": Maybe(TEXT)}),
    "secrets": Maybe({"records": COUNT, "come_out": or_null(COUNT), "kept_records": COUNT}),
    "adapter": Maybe(TEXT),
    "audit": Maybe(TEXT),
    "file": Maybe(TEXT),
    "closed": Maybe(OBJECT),
    "sealed": Maybe(TEXT),
}
FACTS: dict[str, Any] = {
    "line": Maybe(TEXT),
    "label": Maybe(TEXT),
    "person": Maybe(TEXT),
    "due": Maybe(TEXT),
    "escrow": Maybe({"name": TEXT, "sha256": TEXT}),
    "records": Maybe([TEXT]),
    "subjects": Maybe([TEXT]),
    "secrets": Maybe(COUNT),
    "near": Maybe(
        {
            "threshold": Maybe(NUMBER),
            "meaning": Maybe(NUMBER),
            "seen": Maybe(COUNT),
            "included": Maybe(COUNT),
        }
    ),
    "elsewhere": Maybe(COUNT),
    "artifacts": Maybe(
        [{"kind": TEXT, "name": TEXT, "status": TEXT, "action": TEXT, "sealed": TEXT}]
    ),
    "swept": Maybe(OBJECT),
    "run": Maybe(OBJECT),
    "before": Maybe(_FOLDER),
    "after": Maybe(_FOLDER),
    "verdict": Maybe(_VERDICT),
    "price": Maybe(OBJECT),
    "outcome": Maybe(TEXT),
    "reason": Maybe(TEXT),
    "shredded": Maybe(FLAG),
}
"""What is known of a request, as far as types go."""
EVENT: dict[str, Any] = {
    "seq": COUNT,
    "at": TEXT,
    "request": TEXT,
    "event": TEXT,
    "state": TEXT,
    "facts": FACTS,
}
"""An entry of the history."""


def parsed(text: Any, shape: Any, where: str) -> dict[str, Any]:
    """Return the JSON of a row, if its values are of the types that they must have.

    Args:
        text: as the database gave it.
        shape: `FACTS` or `EVENT`.
        where: whose it is, for messages.

    Returns:
        All that it holds.

    Raises:
        LedgerError: if it is something else.
    """
    try:
        content = read_json(str(text).encode(errors="replace"))
        fit(content, shape, "it")
        nulls = [name for name, value in content.items() if value is None and shape is FACTS]
        if nulls:  # a fact that was taken back is not there
            raise MisfitError(f"it.{nulls[0]}: something expected")
    except (MisfitError, UnverifiedError) as error:
        raise LedgerError(
            f"{where} was changed from outside: {error}; put a backup of the ledger in its place"
        ) from None
    return dict(content)
