"""Measure and decide whether a request's records are gone, and certify it."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from unlearn.errors import LedgerError, UnlearnError
from unlearn.lineage import weights_digest
from unlearn.requests._evidence import audit_digest, audit_of
from unlearn.requests._writer import Request
from unlearn.requests.check import check
from unlearn.requests.desk import escrowed, setup_of, uncleaned
from unlearn.requests.ledger import Ledger
from unlearn.requests.run import kept_records, latest, opened

__all__ = ["AuditSettings", "Certify", "Decide", "certify_request", "verify_request"]

EVENTS = {"PASS": "verified", "FAIL": "failed", "INCONCLUSIVE": "inconclusive"}


class Decide(Protocol):
    """Reads an audit folder and decides.

    Returns a mapping with `outcome` (PASS, FAIL or INCONCLUSIVE), `tier`, `reasons` and `policy`
    (`name`, `sha256`).
    """

    def __call__(self, folder: Path, policy: str | None, /) -> Mapping[str, Any]:
        """Decide on the audit in `folder` by a policy."""
        ...


class Certify(Protocol):
    """Writes a signed certificate of a request, from its audit folder and its facts."""

    def __call__(self, audit: Path, request: Mapping[str, Any], output: Path, /) -> Path:
        """Write the certificate to `output`, and return its file."""
        ...


@dataclass(frozen=True)
class AuditSettings:
    """How a request is measured.

    Attributes:
        output: folder in which each audit makes one of its own.
        references: adapters that never saw the records.
        policy: by which to decide; None for the default.
        options: more arguments of `run_audit`.
    """

    output: str
    references: Sequence[str] = ()
    policy: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def _decide() -> Decide:
    found: Decide = _from("unlearn_eval.verdict", "verify_audit")
    return found


def _certify() -> Certify:
    found: Certify = _from("unlearn_eval.certificate", "certify")
    return found


def _from(module: str, name: str) -> Any:
    """Import when needed, so that a ledger can be kept where nothing is measured."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError):
        raise LedgerError(f"{module} has no {name} in this installation") from None


def verify_request(
    ledger: Ledger, request: Request, settings: AuditSettings, *, decide: Decide | None = None
) -> Request:
    """Audit the newest adapter of a request's line for its records, and note the verdict.

    Args:
        ledger: which.
        request: unlearned, or decided before.
        settings: of the audit.
        decide: makes the verdict of an audit folder; None for `unlearn_eval.verdict`.

    Returns:
        The request: verified, failed or inconclusive.

    Raises:
        UnlearnError: if it is not unlearned yet, another process is at work on the line, or the
            audit cannot be made.
    """
    from unlearn_eval.audit import run_audit

    with ledger.lease(request.line) as lease:
        if lease is None:
            raise LedgerError(f"another process is at work on the line of request {request.id}")
        request = ledger.get(request.id)
        if request.state not in {"unlearned", *EVENTS.values()}:
            raise LedgerError(f"request {request.id} is {request.state}: run it first")
        decide = decide or _decide()  # before the audit, which takes long
        setup = setup_of(ledger, request)
        folder, digest, count = latest(ledger, request.line, setup)
        gone = escrowed(ledger, [request])
        model, adapters = opened(setup, folder)
        output = Path(settings.output).absolute() / f"{request.id}-{count}"
        output.parent.mkdir(parents=True, exist_ok=True)
        run_audit(
            model,
            gone,
            f"rows:0-{len(gone) - 1}",
            output,
            adapter=adapters or None,
            before=_still_there(ledger, request),
            references=settings.references,
            holdout=setup.holdout,
            retain=kept_records(ledger, request.line, setup),
            template=setup.template,
            overwrite=True,
            **settings.options,
        )
        found = decide(output, settings.policy)
        outcome = str(found["outcome"])
        policy = found.get("policy") or {}
        told = {"folder": str(output), "reasons": list(found.get("reasons", ()))}
        verdict = {
            "outcome": outcome,
            "tier": found.get("tier"),
            "policy": {key: policy.get(key) for key in ("name", "sha256")},
            "adapter": digest,
            "audit": audit_digest(output),
            "sealed": ledger.sealer.seal(told, f"verdict on request {request.id}"),
        }
        with ledger.writing(lease, request.line) as writer:
            return writer.change(request.id, EVENTS[outcome], verdict=verdict)


def _still_there(ledger: Ledger, request: Request) -> str | None:
    """Return the adapter before, unless it was purged or changed."""
    before = request.facts["before"]
    folder = str(ledger.sealer.open(before["folder"], f"adapter {before['digest']}"))
    try:
        return folder if weights_digest(folder) == before["digest"] else None
    except UnlearnError:
        return None


def certify_request(
    ledger: Ledger, request: Request, output: str | Path, *, certify: Certify | None = None
) -> Path:
    """Write the certificate of a request that was decided.

    Args:
        ledger: which.
        request: verified, failed, inconclusive, or closed after that.
        output: the certificate's file.
        certify: writes and signs it; None for `unlearn_eval.certificate`.

    Returns:
        The file.

    Raises:
        LedgerError: if there is no verdict, the audit was changed since, or the ledger does not
            check.
    """
    folder, reasons = audit_of(ledger, request)
    verdict = request.facts["verdict"]
    if not (folder / "audit.json").is_file() or audit_digest(folder) != verdict["audit"]:
        raise LedgerError(f"the audit {folder} is gone or was changed; verify the request again")
    state = check(ledger, files=False)
    if not state.ok:
        raise LedgerError(f"the ledger does not check: {state.problems[0]}")
    artifacts = [
        {key: entry[key] for key in ("kind", "name", "status")}
        for entry in request.facts.get("artifacts", ())
    ]
    statement = {
        "request": request.id,
        "received": request.created,
        "state": request.state,
        "key_id": ledger.key.id,
        "records": list(request.facts["records"]),
        "before": request.facts["before"]["digest"],
        "after": request.facts["after"]["digest"],
        "method": request.facts["after"]["method"],
        "verdict": {key: verdict[key] for key in ("outcome", "tier", "policy")},
        "reasons": reasons,
        "artifacts": artifacts,
        "uncleaned": len(uncleaned(request)),
        "swept": request.facts.get("swept"),
        "ledger": {"id": ledger.id, "entries": state.entries, "head": state.head},
    }
    file = (certify or _certify())(folder, statement, Path(output).absolute())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    sealed = ledger.sealer.seal(str(file), f"certificate of request {request.id}")
    with ledger.writing() as writer:
        writer.change(request.id, "certified", certificate={"sha256": digest, "file": sealed})
    return file
