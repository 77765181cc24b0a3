"""The audit that a verdict rests on: where it is, and whether it is still the one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from unlearn.errors import LedgerError
from unlearn.requests._writer import Request
from unlearn.requests.ledger import Ledger

__all__ = ["VERDICT", "audit_digest", "audit_of", "verdict_digest"]

VERDICT = "verdict.json"


def audit_digest(folder: Path) -> str:
    """Return the SHA-256 of an audit's two files of numbers."""
    total = hashlib.sha256()
    for name in ("audit.json", "scores.parquet"):
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
    sealed = request.facts["verdict"]["sealed"]
    told = ledger.sealer.open(sealed, f"verdict on request {request.id}")
    return Path(told["folder"]), [str(reason) for reason in told["reasons"]]
