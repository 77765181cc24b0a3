"""The shapes of `audit.json` and `replay.json`, as far as a verdict rests on them.

Files lie about, and may be edited: what is read of one is checked before anything is computed with
it, and a value of another type is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unlearn.errors import DataError
from unlearn_eval.certificate.envelope import UnverifiedError, read_json
from unlearn_eval.certificate.shape import (
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    Each,
    Leaf,
    Maybe,
    MisfitError,
    fit,
    one_of,
    or_null,
)

__all__ = ["AUDIT_FILE", "CLAIM", "REFERENCE_FACTS", "REPLAY_FILE", "checked_file"]

REFERENCE_FACTS = {
    "weights": Maybe(TEXT),
    "trained": Maybe(COUNT),
    "saw": Maybe(COUNT),
    "kept": Maybe(COUNT),
    "from_base": Maybe(FLAG),
    "surplus": Maybe(COUNT),
    "seed": Maybe(COUNT),
}
"""Of each reference, what its lineage says."""
CLAIM = {
    "epsilon": Leaf("a number above 0", lambda value: NUMBER.test(value) and value > 0),
    "delta": Leaf("a number between 0 and 1", lambda value: NUMBER.test(value) and 0 < value < 1),
    "unit": one_of(["record", "person", "client"]),
}
"""The differential privacy that an audited model claims."""
AUDIT_FILE: dict[str, Any] = {
    "schema": one_of([1]),
    "model": Maybe(TEXT),
    "states": Each(TEXT),
    "files": Maybe(Each(TEXT)),
    "records": Maybe({"key_id": Maybe(TEXT), "forget": Maybe([TEXT]), "kept": Maybe(COUNT)}),
    "references": Maybe(OBJECT),
    "training": Maybe(Each(OBJECT)),
    "notes": Maybe([TEXT]),
    "unmeasured": Maybe(Each(TEXT)),
    "policy": Maybe({"name": Maybe(TEXT), "sha256": Maybe(TEXT), "content": Maybe(OBJECT)}),
    "rows": [
        {
            "state": TEXT,
            "split": TEXT,
            "probe": TEXT,
            "metric": TEXT,
            "value": or_null(NUMBER),
            "low": Maybe(NUMBER),
            "high": Maybe(NUMBER),
            "n": COUNT,
            "level": NUMBER,
            "interval": TEXT,
            "clusters": Maybe(COUNT),
            "prompt_state": TEXT,
            "deployment": TEXT,
            "params": Maybe(OBJECT),
            "note": Maybe(TEXT),
        }
    ],
}
REPLAY_FILE: dict[str, Any] = {
    "schema": one_of([1]),
    "created": TEXT,
    "outcome": one_of(["PASS", "FAIL", "INCONCLUSIVE"]),
    "kind": or_null(TEXT),
    "findings": [{"what": TEXT, "passed": or_null(FLAG), "words": TEXT}],
    "not_looked_at": [TEXT],
    "adapter": {"weights": TEXT, "lineage": or_null(TEXT)},
    "records": {"key_id": or_null(TEXT), "trained": Maybe(COUNT), "forgotten": [TEXT]},
    "environment": {"differ": Maybe([TEXT])},
    "words": TEXT,
}


def checked_file(path: Path, shape: Any, what: str, remedy: str) -> dict[str, Any]:
    """Read a file of JSON whose values are of the types that it must have.

    Args:
        path: the file.
        shape: what must be there; other keys may be.
        what: the file holds, for messages.
        remedy: a command that makes it.

    Returns:
        All that it holds.

    Raises:
        DataError: if it cannot be read, is no JSON that every program reads alike, or a value is of
            another type.
        FileNotFoundError: if it is not there.
    """
    try:
        content = read_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, UnverifiedError) as error:
        raise DataError(f"{path}: cannot read the {what}: {error}; {remedy}") from error
    try:
        fit(content, shape, path.name)
    except MisfitError as error:
        raise DataError(
            f"{path}: this is no {what} of schema 1 ({error}); {remedy} again"
        ) from None
    return dict(content)
