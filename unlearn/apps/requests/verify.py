"""Measure and decide whether a request's records are gone, and certify it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from unlearn.apps.requests import canaries
from unlearn.apps.requests.check import check
from unlearn.apps.requests.choose_references import Chosen, choose_references
from unlearn.apps.requests.evidence import (
    VERDICT,
    audit_digest,
    audit_of,
    discard_unfinished,
    told_of,
    verdict_digest,
)
from unlearn.apps.requests.intake import escrowed, setup_of
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.ledger.writer import Request
from unlearn.apps.requests.run import kept_records, latest, opened
from unlearn.data.records import Records
from unlearn.errors import LedgerError, UnlearnError
from unlearn.provenance.lineage import Lineage, weights_digest

__all__ = ["AuditSettings", "Certify", "Decide", "certify_request", "verify_request"]

DEFAULT_POLICY = "standard"

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
    """Writes a signed certificate; arguments as of `unlearn_eval.certificate.certify`."""

    def __call__(
        self,
        audit: Path,
        request: Mapping[str, Any],
        output: Path,
        /,
        *,
        adapter: Path,
        before: Path | None,
        records: Sequence[str],
        artifacts: Sequence[Mapping[str, Any]],
        references: Sequence[Path],
        not_claimed: Sequence[str],
    ) -> Path:
        """Write the certificate to `output`, and return its file."""
        ...


@dataclass(frozen=True)
class AuditSettings:
    """How a request is measured.

    Attributes:
        output: folder in which each audit makes one of its own.
        references: adapters that never saw the records.
        search: folders in which to look for more, by lineage; see `choose_references`.
        policy: by which to decide, fixed before the audit; None for `standard`.
        options: more arguments of `run_audit`.
        canaries: their file, where it is not where the last run found it.
    """

    output: str
    references: Sequence[str] = ()
    search: Sequence[str] = ()
    policy: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    canaries: str | None = None


def _decide(folder: Path, policy: str | None, /) -> Mapping[str, Any]:
    """Decide by the rules of `unlearn_eval.verdict`, and keep the verdict beside the audit."""
    from unlearn_eval.verdict.verify import verify

    return canaries.write_verdict(folder, verify(folder, policy).as_dict())


def _certify(audit: Path, request: Mapping[str, Any], output: Path, /, **facts: Any) -> Path:
    # imported when needed, so that a ledger can be kept without what drawing its page takes
    from unlearn_eval.certify import certify

    return certify(audit, request, output, **facts)


def verify_request(
    ledger: Ledger,
    request: Request,
    settings: AuditSettings,
    *,
    decide: Decide | None = None,
    announce: Callable[[str], None] | None = None,
) -> Request:
    """Audit the newest adapter of a request's line for its records, and note the verdict.

    Args:
        ledger: which.
        request: unlearned, or decided before.
        settings: of the audit.
        decide: makes the verdict of an audit folder; None for `unlearn_eval.verdict.decision`.
        announce: told which references were found, and what the policy can decide with them.

    Returns:
        The request: verified, failed or inconclusive.

    Raises:
        UnlearnError: if it is not unlearned yet, another process is at work on the line, or the
            audit cannot be made.
    """
    from unlearn.runs.references import reference_folders
    from unlearn_eval.audit.run import run_audit
    from unlearn_eval.verdict.load import read_audit

    with ledger.lease(request.line) as lease:
        if lease is None:
            raise LedgerError(f"another process is at work on the line of request {request.id}")
        request = ledger.get(request.id)
        if request.state not in {"unlearned", *EVENTS.values()}:
            raise LedgerError(f"request {request.id} is {request.state}: run it first")
        setup = setup_of(ledger, request)
        folder, digest, count = latest(ledger, request.line, setup)
        _same_policy(request, digest, settings.policy)
        gone = escrowed(ledger, [request])
        model, adapters = opened(setup, folder)
        kept = kept_records(ledger, request.line, setup)
        references = [one for path in settings.references for one in reference_folders(path)]
        if settings.search:
            chosen = _search(ledger, request, folder, kept, settings)
            references += chosen.paths
            if announce is not None:
                announce(chosen.words())
        place = Path(settings.output).absolute()
        place.mkdir(parents=True, exist_ok=True)
        discard_unfinished(ledger, request, place)
        # a name of its own: until the ledger has the new verdict, the old one keeps its audit
        output = place / f"{request.id}-{count}-{secrets.token_hex(3)}"
        file = canaries.measurable(ledger, request.line, settings.canaries)
        closed = canaries.closed_before(ledger, request.line, folder, file is not None)
        common = {
            "adapter": adapters or None,
            "before": _still_there(ledger, request),
            "template": setup.template,
            "policy": settings.policy or DEFAULT_POLICY,  # before any score exists
            **settings.options,
        }
        run_audit(
            model,
            gone,
            f"rows:0-{len(gone) - 1}",
            output,
            references=references,
            holdout=setup.holdout,
            retain=kept,
            announce=announce,
            **common,
        )
        found = (decide or _decide)(output, settings.policy)
        folders, records = [output], None
        if file is not None:
            beside = output.with_name(f"{output.name}-canaries")
            folders.append(beside)
            by_coin = canaries.measure(beside, file, kept, model=model, **common)
            if canaries.better(found, by_coin, read_audit(output).get("unmeasured", ())):
                records = canaries.told_of_records(found["outcome"], found["reasons"])
                found = canaries.beside_records(beside, by_coin, found)
                output, references = beside, []
        outcome = str(found["outcome"])
        policy = found.get("policy") or {}
        told = {
            "folder": str(output),
            "folders": [str(path) for path in folders],
            "records": records,
            "reasons": list(found.get("reasons", ())),
            "references": [str(Path(path).absolute()) for path in references],
        }
        verdict = {
            "outcome": outcome,
            "tier": found.get("tier"),
            "policy": {key: policy.get(key) for key in ("name", "sha256")},
            "adapter": digest,
            "audit": audit_digest(output),
            "file": verdict_digest(output),
            "closed": asdict(closed) if closed else None,
            "sealed": ledger.sealer.seal(told, f"verdict on request {request.id}"),
        }
        with ledger.writing(lease, request.line) as writer:
            return writer.change(request.id, EVENTS[outcome], verdict=verdict)


def _search(
    ledger: Ledger, request: Request, folder: str, kept: Records, settings: AuditSettings
) -> Chosen:
    """Look for references in folders, as many as the policy's verdict takes."""
    from unlearn_eval.verdict.decision import load_policy

    line = Lineage.read(folder)
    if line is None or line.records.key_id != ledger.key.id:
        raise LedgerError(
            f"the adapter {folder} has no lineage under the ledger's key: what is a reference for "
            "it cannot be told, name them with --reference"
        )
    _, policy = load_policy(settings.policy or DEFAULT_POLICY)
    rest = {ledger.key.digest(record) for record in kept} & set(line.records.trained)
    wanted = policy.min_references
    return choose_references(settings.search, request.facts["records"], rest, line, wanted)


def _same_policy(request: Request, adapter: str, policy: str | None) -> None:
    """Refuse to decide on the same adapter by another policy, once its numbers are known."""
    from unlearn_eval.verdict.decision import load_policy

    known = request.facts.get("verdict")
    if known is None or known["adapter"] != adapter:
        return
    name, wanted = load_policy(policy or DEFAULT_POLICY)
    if wanted.sha256 != known["policy"]["sha256"]:
        raise LedgerError(
            f"request {request.id} was decided on this adapter by the policy "
            f"{known['policy']['name']!r}: {name!r} would be chosen after its numbers are known; "
            "run the request again first"
        )


def _references(ledger: Ledger, request: Request) -> list[Path]:
    """Return the references of a request's verdict that are still there."""
    told = told_of(ledger, request, request.facts["verdict"])
    return [path for path in map(Path, told.get("references", ())) if path.is_dir()]


def _by_themselves(ledger: Ledger, request: Request) -> list[str]:
    """Say what the records showed, where canaries stand in for them."""
    told = told_of(ledger, request, request.facts["verdict"])["records"]
    return [f"That the records showed the same: {told}."] if told else []


def _earlier(ledger: Ledger, request: Request) -> list[str]:
    """Say which verdicts there were on the request before, and on which of its adapters."""
    verdicts = [event.facts.get("verdict") for event in ledger.history(request.id)]
    *before, last = [v for v in verdicts if v is not None]
    if not before:
        return []
    adapters = list(dict.fromkeys(v["adapter"] for v in (*before, last)))
    told = [v["outcome"] for v in before]
    where = "on the same adapter"
    if len(adapters) > 1:
        where = f"on this request, which {len(adapters)} adapters were tried for"
        told = [f"{v['outcome']} (adapter {adapters.index(v['adapter']) + 1})" for v in before]
        told[-1] += f", and this one is on adapter {adapters.index(last['adapter']) + 1}"
    return [
        f"That this was the only try: {where}, verdicts before this one were {', '.join(told)}. "
        "Whoever tries again until a verdict pleases errs more often than the policy says."
    ]


def _passed_over(request: Request) -> list[str]:
    """Say how much the last sweep did not look into."""
    swept = request.facts.get("swept") or {}
    kinds = {
        "links": "symbolic link(s), which are not followed",
        "other_kinds": "file(s) of other kinds than weights, data and text",
        "unreadable": "file(s) or folder(s) that could not be read",
    }
    told = [f"{swept[kind]} {words}" for kind, words in kinds.items() if swept.get(kind)]
    if not told:
        return []
    return [f"Anything about what the sweep passed over: {', '.join(told)}."]


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
    folder, _ = audit_of(ledger, request)
    verdict = request.facts["verdict"]
    # whose records are shredded can be audited no more
    again = (
        "the request is closed, so no further certificate can be made; one that was made before "
        "stays what it was"
        if request.state == "closed"
        else "verify the request again"
    )
    if not (folder / "audit.json").is_file() or audit_digest(folder) != verdict["audit"]:
        raise LedgerError(f"the audit {folder} is gone or was changed; {again}")
    if verdict_digest(folder) != verdict.get("file"):
        raise LedgerError(f"{folder / VERDICT} is not the verdict that the ledger holds; {again}")
    state = check(ledger, files=False)
    if not state.ok:
        raise LedgerError(f"the ledger does not check: {state.problems[0]}")
    adapter, _, _ = latest(ledger, request.line, setup_of(ledger, request))
    if weights_digest(adapter) != verdict["adapter"]:
        raise LedgerError(f"the verdict is about an adapter that a later run has replaced; {again}")
    before, closed = _still_there(ledger, request), verdict.get("closed")
    earlier = [] if closed is None else [canaries.Closed(**closed).sentence]
    when = {event.event: event.at for event in ledger.history(request.id)}
    dates = {
        "received": request.created,
        "due": request.facts.get("due"),
        "run": when.get("unlearned"),
        "verified": when.get(EVENTS[verdict["outcome"]]),
        "closed": when.get("closed"),
    }
    told = {
        "id": request.id,
        **{name: at for name, at in dates.items() if at is not None},
        "escrow_destroyed": request.state == "closed",
        "ledger": {"id": ledger.id, "entries": state.entries, "head": state.head},
    }
    file = (certify or _certify)(
        folder,
        told,
        Path(output).absolute(),
        adapter=Path(adapter),
        before=None if before is None else Path(before),
        records=list(request.facts["records"]),
        artifacts=[_artifact(entry) for entry in request.facts.get("artifacts", ())],
        references=_references(ledger, request),
        not_claimed=[
            *_by_themselves(ledger, request),
            *earlier,
            *_earlier(ledger, request),
            *_passed_over(request),
        ],
    )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    sealed = ledger.sealer.seal(str(file), f"certificate of request {request.id}")
    with ledger.writing() as writer:
        writer.change(request.id, "certified", certificate={"sha256": digest, "file": sealed})
    return file


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
    told = {"kind": _KINDS[entry["kind"]], "name": entry["name"], "cleaned": cleaned}
    return told | ({"note": "may descend from the records"} if cleaned is None else {})
