"""The shapes of a statement, schema 1, and of what it is gathered from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unlearn_eval.certificate.shape import (
    COUNT,
    FLAG,
    HEX,
    NUMBER,
    OBJECT,
    TEXT,
    TIME,
    WEIGHTS,
    Each,
    Later,
    Leaf,
    Maybe,
    one_of,
)

__all__ = [
    "ARTIFACT",
    "AUDIT",
    "KINDS",
    "LINEAGE",
    "LOOKS",
    "REFERENCE",
    "REMAINS",
    "REQUEST",
    "STATEMENT",
    "VERDICT",
]

KINDS = (
    "dataset",
    "adapter",
    "checkpoint",
    "optimizer",
    "merge",
    "quantized",
    "cache",
    "raw",
)
"""What may hold a record or descend from it; `optimizer` is the state of one, `raw` a file."""

REQUEST = {
    "id": TEXT,
    "received": Maybe(TIME),
    "due": Maybe(TIME),
    "run": Maybe(TIME),
    "verified": Maybe(TIME),
    "closed": Maybe(TIME),
    "escrow_destroyed": Maybe(FLAG),
    "ledger": Maybe({"id": TEXT, "entries": COUNT, "head": TEXT}),
}
REPLAYED = {
    "sha256": HEX,
    "created": TIME,
    "outcome": one_of(["PASS", "FAIL", "INCONCLUSIVE"]),
    "kind": Maybe(one_of(["exact", "up to rounding"])),
    "weights": WEIGHTS,
    "lineage": HEX,
    "differ": [TEXT],
    "not_looked_at": [TEXT],
}
"""What training again showed: of which weights and lineage, and in what the machines differ."""
_HEX_OR_NOTHING = Leaf(
    "64 hexadecimal digits, or nothing", lambda value: value == "" or HEX.test(value)
)
VERDICT: dict[str, Any] = {
    "schema": one_of([1]),
    "outcome": one_of(["PASS", "FAIL", "INCONCLUSIVE"]),
    "tier": Maybe(one_of(["A", "B", "C", "E"])),
    "reasons": [TEXT],
    "would_decide": [TEXT],
    "policy": {
        "name": TEXT,
        "sha256": HEX,
        "chosen": one_of(["before", "after"]),
        "content": OBJECT,
    },
    "gates": [{"gate": TEXT, "passed": Maybe(FLAG), "words": TEXT}],
    "probes": [
        {
            "probe": TEXT,
            "deployment": TEXT,
            "prompt_state": TEXT,
            "statistic": TEXT,
            "value": Maybe(NUMBER),
            "low": Maybe(NUMBER),
            "high": Maybe(NUMBER),
            "reference_mean": Maybe(NUMBER),
            "reference_sd": Maybe(NUMBER),
            "k": Maybe(COUNT),
            "passed": Maybe(FLAG),
            "failed": Maybe(FLAG),
            "words": TEXT,
        }
    ],
    "extraction": Maybe(
        {
            "n": COUNT,
            "p": NUMBER,
            "extracted": Maybe(COUNT),
            "reference_extracted": Maybe(COUNT),
            "records": Maybe(COUNT),
            "words": TEXT,
            "outcome": Maybe(TEXT),
        }
    ),
    "utility": Maybe(
        {
            "value": Maybe(NUMBER),
            "low": Maybe(NUMBER),
            "high": Maybe(NUMBER),
            "margin": Maybe(NUMBER),
            "outcome": Maybe(TEXT),
            "words": TEXT,
        }
    ),
    "exposure": Later(
        {
            "extracted": COUNT,
            "reference_extracted": Maybe(COUNT),
            "records": COUNT,
            "outcome": Maybe(TEXT),
            "words": TEXT,
        }
    ),
    "power": TEXT,
    "counts": {
        "forget": COUNT,
        "holdout": Maybe(COUNT),
        "subjects": Maybe(COUNT),
        "references": Maybe(COUNT),
    },
    "audit_sha256": _HEX_OR_NOTHING,
    "created": TIME,
    "replay": Later(REPLAYED),
}
REFERENCE = {
    "weights": WEIGHTS,
    "trained": Maybe(COUNT),
    "saw": Maybe(COUNT),
    "kept": Maybe(COUNT),
}
"""A reference: how many records it was trained on, how many of the deleted and the kept ones."""
LOOKS = {
    "scope": one_of(["request", "comparison"]),
    "models": COUNT,
    "nth": COUNT,
    "models_elsewhere": COUNT,
    "reference_sets": COUNT,
    "unused_references": [WEIGHTS],
    "purged_references": COUNT,
    "log": one_of(["holds", "broken", "none"]),
}
"""How many models and sets of references a request was looked at with, and whether that is sure."""
REMAINS = {
    "secrets_in_kept_records": Maybe(COUNT),
    "near_copies": Maybe(COUNT),
    "swept": FLAG,
    "unclear": COUNT,
    "left": COUNT,
    "verdicts_before": [one_of(["PASS", "FAIL", "INCONCLUSIVE"])],
    "chosen": Maybe(one_of(["before", "after"])),
    "secrets": Maybe({"records": COUNT, "come_out": Maybe(COUNT), "kept_records": COUNT}),
    "closed_as": Maybe(TEXT),
    "reason_noted": FLAG,
}
"""What the ledger knows beside a verdict: what was kept, what is open, how often it was decided.

`secrets` counts the records with a secret, those that the model completes when asked the forgotten
questions (null where it was not asked), and the kept records that hold the same value.
"""
AUDIT: dict[str, Any] = {
    "created": TIME,
    "states": OBJECT,
    "files": Maybe(OBJECT),
    "records": Maybe({"key_id": TEXT, "forget": [HEX], "kept": COUNT}),
    "references": Maybe(Each(Maybe(OBJECT))),
    "canaries": Maybe({"sha256": HEX, "planted": COUNT}),
    "looks": Maybe(LOOKS),
}
LINEAGE: dict[str, Any] = {
    "created": TIME,
    "base": {"name": TEXT, "digest": WEIGHTS},
    "digest": WEIGHTS,
    "kind": one_of(["adapter", "full"]),
    "parent": Maybe(WEIGHTS),
    "records": {"key_id": TEXT, "forgotten": [HEX]},
    "canaries": Maybe({"sha256": HEX, "pairs": COUNT}),
    "method": TEXT,
    "options": OBJECT,
    "seed": COUNT,
    "versions": OBJECT,
    "stopped": Maybe(TEXT),
}
ARTIFACT = {
    "kind": one_of(KINDS),
    "name": TEXT,
    "digest": Maybe(TEXT),
    "cleaned": Maybe(FLAG),
    "note": Maybe(TEXT),
}
_FILES = Leaf(
    "file names with 64 hexadecimal digits each",
    lambda value: isinstance(value, Mapping) and all(map(HEX.test, value.values())),
)

STATEMENT: dict[str, Any] = {
    "schema": one_of([1]),
    "created": TIME,
    "expires": TIME,
    "request": Maybe(REQUEST),
    "records": {"algorithm": one_of(["HMAC-SHA256"]), "key_id": TEXT, "digests": [HEX]},
    "counts": VERDICT["counts"],
    "scope": [ARTIFACT],
    "models": {
        "base": {"name": TEXT, "weights": WEIGHTS, "files": Later(_FILES)},
        "before": Maybe({"weights": WEIGHTS}),
        "after": {"kind": LINEAGE["kind"], "weights": WEIGHTS, "files": Maybe(_FILES)},
    },
    "references": [REFERENCE],
    "looks": Later(LOOKS),
    "remains": Later(REMAINS),
    "method": {
        "name": TEXT,
        "options": OBJECT,
        "seed": COUNT,
        "versions": OBJECT,
        "run": TIME,
        "stopped": Maybe(TEXT),
    },
    "policy": VERDICT["policy"],
    "controls": VERDICT["gates"],
    "probes": VERDICT["probes"],
    "extraction": VERDICT["extraction"],
    "utility": VERDICT["utility"],
    "exposure": VERDICT["exposure"],
    "power": TEXT,
    "audit": Maybe({"sha256": HEX, "scores_sha256": Maybe(HEX), "created": TIME}),
    "replay": Later(REPLAYED),
    "verdict": {
        "outcome": VERDICT["outcome"],
        "tier": VERDICT["tier"],
        "reasons": [TEXT],
        "would_decide": [TEXT],
        "decided": TIME,
    },
    "not_claimed": [TEXT],
}
"""The shape of a statement of schema 1."""
