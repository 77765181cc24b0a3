"""What the ledger knows of a request that stands beside its verdict, and which a reader would want.

A verdict is about the records. The same number may stand in a record that is kept, a near copy may
have been left, a sweep may have found what nobody has looked at, and the verdict may be the third.
"""

from __future__ import annotations

from typing import Any

from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn_eval.certificate.remains import remains_in_words

__all__ = ["remains_of", "unsettled"]


def remains_of(ledger: Ledger, request: Request) -> dict[str, Any]:
    """Return what stands beside a request's verdict, as its certificate has it.

    Args:
        ledger: which.
        request: in any state.

    Returns:
        See `unlearn_eval.certificate.schema.REMAINS`.
    """
    facts = request.facts
    statuses = [artifact["status"] for artifact in facts.get("artifacts", ())]
    verdict = facts.get("verdict") or {}
    decided = [event.facts.get("verdict") for event in ledger.history(request.id)]
    outcomes = [each["outcome"] for each in decided if each is not None]
    secrets = verdict.get("secrets")
    return {
        "secrets_in_kept_records": facts.get("elsewhere"),
        "near_copies": (facts.get("near") or {}).get("seen"),
        "swept": "swept" in facts,
        "unclear": statuses.count("unclear"),
        "left": statuses.count("found"),
        "verdicts_before": outcomes[:-1],
        "chosen": (verdict.get("policy") or {}).get("chosen"),
        "secrets": None if secrets is None else dict(secrets),
        "closed_as": facts.get("outcome"),
        "reason_noted": "reason" in facts,
    }


def unsettled(ledger: Ledger, request: Request) -> list[str]:
    """Return what a request cannot be closed on top of without a reason, in words.

    Args:
        ledger: which.
        request: that is to be closed.

    Returns:
        Clauses; empty when there is nothing.
    """
    return remains_in_words(remains_of(ledger, request))
