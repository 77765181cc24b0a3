"""The audit that a verdict rests on: where it is, and whether it is still the one."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.errors import LedgerError

__all__ = [
    "VERDICT",
    "audit_digest",
    "audit_of",
    "discard_unfinished",
    "same_policy",
    "verdict_details",
    "verdict_digest",
]

VERDICT = "verdict.json"


def audit_digest(folder: Path) -> str:
    """Return the SHA-256 of what a verdict rests on: an audit's two files of numbers, a replay.

    Of shards there may be a third beside a replay: what records come to by every route.

    Raises OSError where there is neither, or an audit is not whole.
    """
    total = hashlib.sha256()
    replayed = (folder / "replay.json").is_file()
    audited = (folder / "audit.json").is_file() or not replayed
    names = ["audit.json", "scores.parquet"] if audited else []
    routes = ["routes.json"] if (folder / "routes.json").is_file() else []
    for name in [*names, *(["replay.json"] if replayed else []), *routes]:
        total.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return total.hexdigest()


def verdict_digest(folder: Path) -> str | None:
    """Return the SHA-256 of the verdict beside an audit, None where there is none."""
    path = folder / VERDICT
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def audit_of(ledger: Ledger, request: Request) -> tuple[Path, list[str]]:
    """Return the folder of a request's audit, and the verdict's reasons.

    Args:
        ledger: which.
        request: with a verdict.

    Returns:
        (folder, reasons).

    Raises:
        LedgerError: if it has no verdict.
    """
    if "verdict" not in request.facts:
        raise LedgerError(f"request {request.id} is {request.state}: verify it first")
    details = verdict_details(ledger, request, request.facts["verdict"])
    return Path(details["folder"]), [str(reason) for reason in details["reasons"]]


def verdict_details(ledger: Ledger, request: Request, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the ledger holds sealed of a verdict.

    Args:
        ledger: which.
        request: whose.
        verdict: one of its verdicts.

    Returns:
        The audit's `folder` and all `folders` that it rests on, `reasons`, `references`, and what
        the `records` showed by themselves where canaries stand in for them.
    """
    sealed = verdict.get("sealed")
    if sealed is None:
        raise LedgerError(f"request {request.id}: its verdict was changed from outside")
    details: dict[str, Any] = ledger.sealer.open(sealed, f"verdict on request {request.id}")
    return {"folders": [details["folder"]], "records": None, **details}


def discard_unfinished(ledger: Ledger, request: Request, place: Path) -> None:
    """Delete audits of a request that no verdict came of: of killed processes, the line is ours.

    Verdicts of the past keep theirs.
    """
    noted = set()
    for event in ledger.history(request.id):
        verdict = event.facts.get("verdict")
        if verdict is not None:
            folders = verdict_details(ledger, request, verdict)["folders"]
            noted |= {Path(folder).resolve() for folder in folders}
    ours = re.compile(
        rf"{request.id}-\d+-[0-9a-f]{{6}}(-canaries)?|\.{request.id}-\d+-.*\.partial-\d+"
    )
    for folder in place.iterdir():
        if ours.fullmatch(folder.name) and folder.resolve() not in noted:
            shutil.rmtree(folder, ignore_errors=True)  # leaves links alone


def same_policy(request: Request, adapter: str, policy: str) -> None:
    """Refuse to decide on the same adapter by another policy, once its numbers are known.

    Args:
        request: which.
        adapter: digest of its weights.
        policy: by which it is to be decided.

    Raises:
        LedgerError: if it is another one.
    """
    from unlearn_eval.verdict.decision import load_policy

    known = request.facts.get("verdict")
    if known is None or known["adapter"] != adapter or known["policy"]["name"] == "replay":
        return
    name, wanted = load_policy(policy)
    if wanted.sha256 != known["policy"]["sha256"]:
        raise LedgerError(
            f"request {request.id} was decided on this adapter by the policy "
            f"{known['policy']['name']!r}: {name!r} would be chosen after its numbers are known; "
            "run the request again first"
        )
