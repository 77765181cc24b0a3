"""What programs are told of requests: plain content for JSON. None of it holds a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn.apps.requests.check import LedgerCheck
    from unlearn.apps.requests.ledger.book import Request
    from unlearn.apps.requests.ledger.ledger import Ledger
    from unlearn.apps.requests.locate import Located
    from unlearn.apps.requests.run import Ran

__all__ = ["check_content", "request_content", "runs_content", "search_content", "whole_request"]


def request_content(request: Request) -> dict[str, Any]:
    """Return a request as JSON has it."""
    facts = request.facts
    verdict = facts.get("verdict") or {}
    secrets = verdict.get("secrets") or {}
    counts = [artifact["status"] for artifact in facts.get("artifacts", ())]
    return {
        "id": request.id,
        "number": request.number,
        "label": facts.get("label"),
        "due": facts.get("due"),
        "state": request.state,
        "outcome": facts.get("outcome"),
        "created": request.created,
        "changed": request.changed,
        "line": request.line,
        "records": len(facts["records"]) if "records" in facts else None,
        "near_duplicates": facts.get("near"),
        "secrets_in_kept_records": facts.get("elsewhere"),
        "secrets_that_come_out": secrets.get("come_out"),
        "run": (facts.get("after") or facts.get("run") or {}).get("run"),
        "adapter": (facts.get("after") or {}).get("digest"),
        "price": facts.get("price"),
        "verdict": {k: verdict.get(k) for k in ("outcome", "tier", "policy")} if verdict else None,
        "artifacts": {status: counts.count(status) for status in ("found", "unclear", "cleaned")},
        "swept": facts.get("swept"),
    }


def _artifacts(ledger: Ledger, request: Request) -> list[dict[str, Any]]:
    found = []
    for entry in request.facts.get("artifacts", ()):
        told = ledger.sealer.open(entry["sealed"], f"artifact {entry['name']}")
        shown = {key: value for key, value in entry.items() if key not in {"sealed", "name"}}
        found.append({**shown, **told})
    return found


def whole_request(ledger: Ledger, request: Request) -> dict[str, Any]:
    """Return a request with artifacts, reasons and history as JSON has it."""
    from unlearn.apps.requests.closing import reason_given

    reasons: Sequence[str] = ()
    audit = None
    if "verdict" in request.facts:
        from unlearn.apps.requests.evidence import audit_of

        folder, reasons = audit_of(ledger, request)
        audit = str(folder)
    return {
        **request_content(request),
        "audit": audit,
        "reasons": list(reasons),
        "reason": reason_given(ledger, request),
        "artifacts_list": _artifacts(ledger, request),
        "history": [
            {"seq": event.seq, "at": event.at, "event": event.event, "state": event.state}
            for event in ledger.history(request.id)
        ],
    }


def search_content(found: Located) -> dict[str, Any]:
    """Return what a search found as JSON has it: ids, no text."""
    return {
        "records": found.records.ids,
        "near_duplicates": [entry._asdict() for entry in found.near],
        "secrets_elsewhere": [entry._asdict() for entry in found.elsewhere],
    }


def check_content(result: LedgerCheck) -> dict[str, Any]:
    """Return a check as JSON has it."""
    return {
        "ok": result.ok,
        "requests": result.requests,
        "entries": result.entries,
        "head": result.head,
        "problems": list(result.problems),
        "notes": list(result.notes),
    }


def runs_content(result: Ran) -> dict[str, Any]:
    """Return what runs did as JSON has it."""
    failed = [
        {"line": each.line, "requests": each.requests, "problem": each.problem}
        for each in result.failed
    ]
    return {
        "runs": [asdict(each) for each in result.done],
        "busy": list(result.busy),
        "failed": failed,
        "notes": result.notes,
    }
