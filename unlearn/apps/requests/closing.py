"""Close requests: with which outcome, for what reason, and with their records shredded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.remains import unsettled
from unlearn.errors import LedgerError, OutputError, did_you_mean

__all__ = [
    "OUTCOMES",
    "Outcome",
    "close",
    "note_shredded",
    "outcome_named",
    "reason_given",
    "uncleaned",
    "unshredded",
]

Outcome = Literal["pass", "fail", "inconclusive", "incomplete", "withdrawn"]
OUTCOMES: dict[Outcome, str] = {
    "pass": "verified, and nothing known is left",
    "incomplete": "verified, but an artifact that descends from the records remains",
    "fail": "verification failed, or was given up after a run",
    "inconclusive": "verification could not decide",
    "withdrawn": "not carried out",
}


def uncleaned(request: Request) -> list[Mapping[str, Any]]:
    """Return the artifacts that are known to descend from the records and are still there."""
    return [a for a in request.facts.get("artifacts", ()) if a["status"] == "found"]


def close(
    ledger: Ledger, request: Request, outcome: Outcome | None = None, *, reason: str | None = None
) -> Request:
    """Close a request, shred its records, and note that they are gone once they are.

    May be repeated: of a request that is closed it finishes what a kill left in the escrow.

    Args:
        ledger: where.
        request: any that is open.
        outcome: None for what its state says: verified → pass, failed → fail, inconclusive.
        reason: why it passes, or is incomplete, though something stands beside the verdict (see
            `remains.unsettled`); kept encrypted.

    Returns:
        The request, closed.

    Raises:
        LedgerError: if it cannot be closed with that outcome, or not without a reason, or is being
            worked on.
        OutputError: if the records could not be shredded; closing again tries again.
    """
    with (
        ledger.hold(request.line) as hold,
        ledger.writing(hold) as writer,
    ):
        current = writer.get(request.id)
        if current.state != "closed":
            chosen = outcome or _by_state(current)
            _allow(current, chosen)
            _reasoned(ledger, current, chosen, reason)
            noted = {} if reason is None else {"reason": _sealed_reason(ledger, current, reason)}
            current = writer.change(
                request.id, "closed", outcome=chosen, escrow=None, run=None, **noted
            )
        elif outcome not in {None, current.facts.get("outcome")}:
            raise LedgerError(
                f"request {request.id} is closed as {current.facts.get('outcome')} already"
            )
        strays = ledger.escrow.strays(writer.deposits())
    # kept until the ledger says closed: a kill in between leaves a stray, which goes here later
    ledger.escrow.shred(*strays)
    return note_shredded(ledger, current)


def note_shredded(ledger: Ledger, request: Request) -> Request:
    """Note that the records of a closed request are gone, if they are: nothing else says so.

    Args:
        ledger: where.
        request: closed.

    Returns:
        The request; as it was where nothing of it was ever in escrow.

    Raises:
        OutputError: if a file of it is still there.
    """
    if not _was_in_escrow(ledger, request):
        return request
    if left := ledger.escrow.of(request.id):
        raise OutputError(
            f"{left[0]} is still there: request {request.id} is closed, and its records are not "
            f"shredded; `unlearn request close {request.id}` tries again"
        )
    with ledger.writing() as writer:
        current = writer.get(request.id)
        if current.facts.get("shredded"):
            return current
        return writer.change(request.id, "shredded", shredded=True)


def unshredded(ledger: Ledger, request: Request) -> bool:
    """Say whether a request is closed, and its records are still there or not noted to be gone.

    False where the escrow itself is elsewhere: nothing can be said, or finished, from here.
    """
    if request.state != "closed" or not ledger.escrow.folder.is_dir():
        return False
    if request.facts.get("shredded"):
        return bool(ledger.escrow.of(request.id))
    return _was_in_escrow(ledger, request)


def _was_in_escrow(ledger: Ledger, request: Request) -> bool:
    return any(event.facts.get("escrow") for event in ledger.history(request.id))


def _reasoned(ledger: Ledger, request: Request, outcome: Outcome, reason: str | None) -> None:
    """Refuse to close over what stands beside the verdict without a reason."""
    if outcome not in {"pass", "incomplete"} or (reason or "").strip():
        return
    if beside := unsettled(ledger, request):
        raise LedgerError(
            f"request {request.id}: {'; '.join(beside)}; say with --reason why it is closed as "
            f"{outcome} all the same"
        )


def _sealed_reason(ledger: Ledger, request: Request, reason: str) -> str:
    return ledger.sealer.seal(reason.strip(), _reason_of(request))


def reason_given(ledger: Ledger, request: Request) -> str | None:
    """Return the reason with which a request was closed; None where none was given."""
    sealed = request.facts.get("reason")
    return None if sealed is None else str(ledger.sealer.open(sealed, _reason_of(request)))


def _reason_of(request: Request) -> str:
    return f"reason of closing request {request.id}"


def outcome_named(name: str | None) -> Outcome | None:
    """Return an outcome by its name; None for none.

    Raises LedgerError if there is none of that name.
    """
    if name is None:
        return None
    for outcome in OUTCOMES:
        if outcome == name:
            return outcome
    raise LedgerError(f"unknown outcome {name!r}{did_you_mean(name, OUTCOMES)}")


def _by_state(request: Request) -> Outcome:
    known: dict[str, Outcome] = {
        "verified": "pass",
        "failed": "fail",
        "inconclusive": "inconclusive",
    }
    if request.state not in known:
        how = (
            "verify it first, or pass --outcome fail to give it up"
            if _carried_out(request)
            else "pass --outcome withdrawn to close it without carrying it out"
        )
        raise LedgerError(f"request {request.id} is {request.state}, not verified; {how}")
    return known[request.state]


def _carried_out(request: Request) -> bool:
    """Say whether a run took the records out of an adapter, whatever came of it."""
    return request.state not in {"received", "located"} or "after" in request.facts


def _allow(request: Request, outcome: Outcome) -> None:
    """Refuse an outcome that says more than is known."""
    if outcome == "withdrawn" and _carried_out(request):
        # its records would count as kept again, and the next run would train on them
        raise LedgerError(
            f"request {request.id} was carried out: it cannot be closed as withdrawn; pass "
            "--outcome fail to give it up"
        )
    if outcome == "fail" and request.state in {"located", "unlearned"} and _carried_out(request):
        return
    if outcome in {"pass", "incomplete"}:
        if request.state != "verified":
            raise LedgerError(f"request {request.id} is {request.state}, not verified")
        artifacts = uncleaned(request)
        if outcome == "pass" and artifacts:
            raise LedgerError(
                f"request {request.id}: {len(artifacts)} artifact(s) that descend from its records "
                "remain; clean them with `unlearn request sweep --purge`, or pass --outcome "
                "incomplete"
            )
        if outcome == "pass" and "swept" not in request.facts:
            raise LedgerError(
                f"request {request.id}: nobody looked for other artifacts; run `unlearn request "
                "sweep` over the folders where some may be, or pass --outcome incomplete"
            )
    elif outcome in {"fail", "inconclusive"} and outcome != _by_state(request):
        raise LedgerError(
            f"request {request.id} is {request.state}: it cannot be closed as {outcome}"
        )
