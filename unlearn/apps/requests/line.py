"""A line of adapters: the newest one, the one before a request, and the records that it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from unlearn.apps.requests.intake import Setup
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.data.records import Records
from unlearn.errors import LedgerError, UnlearnError
from unlearn.model.folders import resolve_folder
from unlearn.provenance.lineage import weights_digest

__all__ = ["Newest", "adapter_before", "kept_records", "latest", "opened"]


class Newest(NamedTuple):
    """The newest adapter of a line: its folder, its digest, and how many runs led to it."""

    folder: str
    digest: str
    runs: int


def latest(ledger: Ledger, line: str, setup: Setup) -> Newest:
    """Return the newest adapter of a line.

    Args:
        ledger: which.
        line: which line.
        setup: of a request on it, which names the first adapter.

    Returns:
        The adapter.

    Raises:
        LedgerError: if the adapter on disk is not the one that was made.
    """
    made = [r.facts["after"] for r in ledger.requests(line=line) if "after" in r.facts]
    if made:
        last = max(made, key=lambda entry: int(entry["n"]))
        digest, count = str(last["digest"]), int(last["n"])
        folder = str(ledger.sealer.open(last["folder"], f"adapter {digest}"))
    else:
        folder, digest, count = str(resolve_folder(setup.changing, "adapter")), line, 0
    if not Path(folder).is_dir() or weights_digest(folder) != digest:
        raise LedgerError(
            f"the adapter {folder} is gone or was changed since the ledger saw it ({digest[:19]}…)"
        )
    return Newest(folder, digest, count)


def adapter_before(ledger: Ledger, request: Request) -> str | None:
    """Return the adapter before, unless it was purged or changed."""
    before = request.facts["before"]
    folder = str(ledger.sealer.open(before["folder"], f"adapter {before['digest']}"))
    try:
        return folder if weights_digest(folder) == before["digest"] else None
    except UnlearnError:
        return None


def opened(setup: Setup, folder: str) -> tuple[str, list[str]]:
    """Return model and adapters to open, with the newest of the line in its place."""
    if setup.adapters:
        return setup.model, [*setup.adapters[:-1], folder]
    return folder, []


def kept_records(ledger: Ledger, line: str, setup: Setup) -> Records:
    """Return the records to keep: none that any request on the line ever was about."""
    forget_digests: set[str] = set()
    for request in ledger.requests(line=line):
        # earlier versions closed some as withdrawn after a run had taken their records out
        if request.facts.get("outcome") != "withdrawn" or "after" in request.facts:
            forget_digests |= set(request.facts.get("records", ()))
    data = Records.load(setup.retain or setup.data)
    key = ledger.key
    return data.take(
        [i for i, record in enumerate(data) if key.digest(record) not in forget_digests]
    )
