"""Certify what was decided on a request: the ledger's side of a signed certificate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn.apps.requests.canaries import Closed
from unlearn.apps.requests.check import check
from unlearn.apps.requests.evidence import (
    VERDICT,
    audit_digest,
    audit_of,
    verdict_details,
    verdict_digest,
)
from unlearn.apps.requests.intake import setup_of
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.line import adapter_before, latest
from unlearn.apps.requests.remains import remains_of
from unlearn.apps.requests.verify import EVENTS
from unlearn.errors import LedgerError
from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn_eval.certificate.statement import Deletion
from unlearn_eval.certify import Models, certify

__all__ = ["certify_request"]


def certify_request(ledger: Ledger, request: Request, output: str | Path) -> Path:
    """Write the certificate of a request that was decided.

    Args:
        ledger: which.
        request: verified, failed, inconclusive, or closed after that.
        output: the certificate's file.

    Returns:
        The file.

    Raises:
        LedgerError: if there is no verdict, the audit was changed since, or the ledger does not
            check.
    """
    audit = _unchanged_audit(ledger, request)
    ledger_state = check(ledger, files=False)
    if not ledger_state.ok:
        raise LedgerError(f"the ledger does not check: {ledger_state.problems[0]}")
    adapter = latest(ledger, request.line, setup_of(ledger, request)).folder
    if weights_digest(adapter) != request.facts["verdict"]["adapter"]:
        raise LedgerError(
            f"the verdict is about an adapter that a later run has replaced; {_what_helps(request)}"
        )
    models = Models(
        adapter,
        adapter_before(ledger, request),
        _references(ledger, request),
        _base(ledger, request, adapter),
    )
    deletion = Deletion(
        request={
            "id": request.id,
            **_dates(ledger, request),
            "escrow_destroyed": _escrow_destroyed(ledger, request),
            "ledger": {
                "id": ledger.id,
                "entries": ledger_state.entries,
                "head": ledger_state.head,
            },
        },
        records=list(request.facts["records"]),
        artifacts=[_artifact(entry) for entry in request.facts.get("artifacts", ())],
        not_claimed=[
            *_by_themselves(ledger, request),
            *_closed(request),
            *_earlier(ledger, request),
            *_passed_over(request),
        ],
        remains=remains_of(ledger, request),
    )
    file = certify(
        audit if (audit / "audit.json").is_file() else None,
        Path(output).absolute(),
        models,
        deletion,
        replay=audit if (audit / "replay.json").is_file() else None,
    )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    sealed = ledger.sealer.seal(str(file), f"certificate of request {request.id}")
    with ledger.writing() as writer:
        writer.change(request.id, "certified", certificate={"sha256": digest, "file": sealed})
    return file


def _escrow_destroyed(ledger: Ledger, request: Request) -> bool:
    """Say whether the records in escrow are gone: noted when they were, and still not there."""
    return bool(request.facts.get("shredded")) and not ledger.escrow.of(request.id)


def _unchanged_audit(ledger: Ledger, request: Request) -> Path:
    """Return the folder of what the verdict rests on, refusing one that was changed."""
    folder, _ = audit_of(ledger, request)
    verdict = request.facts["verdict"]
    try:
        same = audit_digest(folder) == verdict["audit"]
    except OSError:
        same = False
    if not same:
        raise LedgerError(f"the audit {folder} is gone or was changed; {_what_helps(request)}")
    if verdict_digest(folder) != verdict.get("file"):
        raise LedgerError(
            f"{folder / VERDICT} is not the verdict that the ledger holds; {_what_helps(request)}"
        )
    return folder


def _base(ledger: Ledger, request: Request, adapter: str) -> Path | None:
    """Return the folder of the base, where it is a folder and by the lineage the right one."""
    folder, line = Path(setup_of(ledger, request).model), Lineage.read(adapter)
    if line is None or not folder.is_dir() or weights_digest(folder) != line.base.digest:
        return None
    return folder


def _what_helps(request: Request) -> str:
    """Say what to do where no certificate can be made: shredded records are audited no more."""
    if request.state == "closed":
        return (
            "the request is closed, so no further certificate can be made; one that was made "
            "before stays what it was"
        )
    return "verify the request again"


def _dates(ledger: Ledger, request: Request) -> dict[str, Any]:
    """Return when a request came in, is due, and was carried out, decided and closed."""
    when = {event.event: event.at for event in ledger.history(request.id)}
    dates = {
        "received": request.created,
        "due": request.facts.get("due"),
        "run": when.get("unlearned"),
        "verified": when.get(EVENTS[request.facts["verdict"]["outcome"]]),
        "closed": when.get("closed"),
    }
    return {name: at for name, at in dates.items() if at is not None}


def _references(ledger: Ledger, request: Request) -> list[Path]:
    """Return the references of a request's verdict that are still there."""
    details = verdict_details(ledger, request, request.facts["verdict"])
    return [path for path in map(Path, details.get("references", ())) if path.is_dir()]


def _by_themselves(ledger: Ledger, request: Request) -> list[str]:
    """Say what the records showed, where canaries stand in for them."""
    alone = verdict_details(ledger, request, request.facts["verdict"])["records"]
    return [f"That the records showed the same: {alone}."] if alone else []


def _closed(request: Request) -> list[str]:
    """Say what could be checked again of requests closed before on the same line."""
    closed = request.facts["verdict"].get("closed")
    return [] if closed is None else [Closed(**closed).sentence]


def _earlier(ledger: Ledger, request: Request) -> list[str]:
    """Say which verdicts there were on the request before, and on which of its adapters."""
    verdicts = [event.facts.get("verdict") for event in ledger.history(request.id)]
    *before, last = [v for v in verdicts if v is not None]
    if not before:
        return []
    adapters = list(dict.fromkeys(v["adapter"] for v in (*before, last)))
    outcomes = [v["outcome"] for v in before]
    where = "on the same adapter"
    if len(adapters) > 1:
        where = f"on this request, which {len(adapters)} adapters were tried for"
        outcomes = [f"{v['outcome']} (adapter {adapters.index(v['adapter']) + 1})" for v in before]
        outcomes[-1] += f", and this one is on adapter {adapters.index(last['adapter']) + 1}"
    return [
        f"That this was the only try: {where}, verdicts before this one were "
        f"{', '.join(outcomes)}. Whoever tries again until a verdict pleases errs more often than "
        "the policy says."
    ]


def _passed_over(request: Request) -> list[str]:
    """Say how much the last sweep did not look into."""
    swept = request.facts.get("swept") or {}
    kinds = {
        "links": "symbolic link(s), which are not followed",
        "other_kinds": "file(s) of other kinds than weights, data and text",
        "unreadable": "file(s) or folder(s) that could not be read",
    }
    counts = [f"{swept[kind]} {words}" for kind, words in kinds.items() if swept.get(kind)]
    files = swept.get("files") or {}
    if files.get("unclear"):
        all_files = sum(files.values())
        counts.append(f"{files['unclear']} of {all_files} file(s), not known to be clean")
    if not counts:
        return []
    return [f"Anything about what the sweep passed over: {', '.join(counts)}."]


_KINDS = {
    "adapter": "adapter",
    "model": "merge",
    "checkpoint": "checkpoint",
    "quantized export": "quantized",
    "optimizer state": "optimizer",
    "score cache": "cache",
    "saved dataset": "dataset",
    "data file": "raw",
    "text file": "raw",
}
"""What a certificate calls the kinds of things that a sweep finds."""


def _artifact(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Say in a certificate's words what became of an artifact."""
    cleaned = {"found": False, "cleaned": True}.get(entry["status"])
    artifact = {"kind": _KINDS[entry["kind"]], "name": entry["name"], "cleaned": cleaned}
    return artifact | ({"note": "may descend from the records"} if cleaned is None else {})
