"""What a verification is about: an adapter, and the records of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unlearn.apps.requests.intake import Setup, escrowed, setup_of
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.line import Newest, kept_records, latest, opened
from unlearn.data.records import Records
from unlearn.errors import LedgerError
from unlearn.shards.files import is_sharded

__all__ = ["Subject", "subject_of"]

_DECIDED = ("verified", "failed", "inconclusive")


@dataclass(frozen=True)
class Subject:
    """What is measured: the newest adapter of a request's line, for the request's records.

    Attributes:
        request: which.
        setup: of it.
        newest: the adapter.
        forget_records: what must be gone.
        retain_records: what is kept.
    """

    request: Request
    setup: Setup
    newest: Newest
    forget_records: Records
    retain_records: Records

    @property
    def sharded(self) -> bool:
        """Whether the newest adapter is a folder of shards."""
        return is_sharded(self.newest.folder)

    @property
    def opening(self) -> dict[str, Any]:
        """Model and adapters, as `run_audit` takes them."""
        model, adapters = opened(self.setup, self.newest.folder)
        return {"model": model, "adapter": adapters or None}


def subject_of(ledger: Ledger, request: Request) -> Subject:
    """Return what is to be measured.

    Args:
        ledger: which.
        request: carried out, or decided before.

    Returns:
        The subject.

    Raises:
        LedgerError: if the request is not ready for it.
    """
    if request.state not in {"unlearned", *_DECIDED}:
        raise LedgerError(f"request {request.id} is {request.state}: run it first")
    setup = setup_of(ledger, request)
    newest = latest(ledger, request.line, setup)
    forget_records = escrowed(ledger, [request])
    retain_records = kept_records(ledger, request.line, setup)
    return Subject(request, setup, newest, forget_records, retain_records)
