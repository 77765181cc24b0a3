"""Take requests in, and settle what they are about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.due import due_time
from unlearn.apps.requests.ledger.escrow import Deposit
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.ledger.writer import new_id
from unlearn.apps.requests.locate import Located
from unlearn.data.records import Record, Records
from unlearn.errors import LedgerError, UnlearnError
from unlearn.model.folders import resolve_folder
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, weights_digest

__all__ = [
    "Setup",
    "add",
    "deposited",
    "escrowed",
    "line_of",
    "selectors_of",
    "settle",
    "setup_of",
    "untrained",
]


@dataclass(frozen=True)
class Setup:
    """What a request is carried out on.

    Attributes:
        model: base model, or the full fine-tune.
        adapters: on that base; the last one changes.
        data: the records it was trained on.
        retain: the records to keep, when `data` no longer holds the rest.
        holdout: records the model never saw.
        template: how records are written; None for what the lineage says.
    """

    model: str
    adapters: tuple[str, ...]
    data: str
    retain: str | None = None
    holdout: str | None = None
    template: str | None = None

    @property
    def changing(self) -> str:
        """The adapter (or model) that the records are taken out of."""
        return self.adapters[-1] if self.adapters else self.model

    def absolute(self) -> Setup:
        """Return it with local paths that hold from any folder."""
        retain = _absolute(self.retain) if self.retain else None
        holdout = _absolute(self.holdout) if self.holdout else None
        adapters = tuple(map(_absolute, self.adapters))
        return replace(
            self,
            model=_absolute(self.model),
            adapters=adapters,
            data=_absolute(self.data),
            retain=retain,
            holdout=holdout,
        )


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def add(
    ledger: Ledger,
    setup: Setup,
    selectors: Sequence[str],
    *,
    label: str | None = None,
    person: str | None = None,
    due: str | None = None,
) -> str:
    """Enter a request.

    Args:
        ledger: where.
        setup: what it is carried out on.
        selectors: which records, see `find_records`; kept in the escrow only.
        label: a name to show, such as a ticket's number; stored as it is, so never a person's.
        person: who asks; stored as a digest.
        due: by when it must be done: a date, or a time with its offset from UTC.

    Returns:
        The request's id.

    Raises:
        UnlearnError: if the adapter has no weights, no record is named, or `due` is no date.
    """
    until = due_time(due) if due else None
    if not [s for s in selectors if s.strip()]:
        raise LedgerError("name the records with --forget")
    setup = setup.absolute()
    digest = weights_digest(resolve_folder(setup.changing, "adapter"))
    name = new_id()
    with ledger.writing() as writer:
        deposit = ledger.escrow.put(name, {"selectors": list(selectors), "records": []})
        facts = {
            "line": line_of(ledger, digest),
            "label": label,
            "person": ledger.person(person) if person else None,
            "due": until,
            "setup": ledger.sealer.seal(asdict(setup), _setup_purpose(name)),
            "escrow": asdict(deposit),
        }
        writer.add([facts], [name])
    return name


def _setup_purpose(request: str) -> str:
    return f"setup of request {request}"


def setup_of(ledger: Ledger, request: Request) -> Setup:
    """Return what a request is carried out on."""
    content = ledger.sealer.open(request.facts["setup"], _setup_purpose(request.id))
    return Setup(**{**content, "adapters": tuple(content["adapters"])})


def line_of(ledger: Ledger, digest: str) -> str:
    """Return the line that an adapter belongs to: one that the ledger knows, else its own.

    Args:
        ledger: which.
        digest: of the adapter's weights.

    Returns:
        The digest of the first adapter of the line.
    """
    for request in ledger.requests():
        made = request.facts.get("after")
        if digest == request.line or (made and made["digest"] == digest):
            return request.line
    return digest


def untrained(ledger: Ledger, folder: str | Path, digests: Iterable[str]) -> int:
    """Return how many of some records an adapter never learned, as far as its lineage says.

    Args:
        ledger: under whose key.
        folder: of the adapter or model.
        digests: of the records.

    Returns:
        Their number; 0 too where no lineage under the key says.
    """
    try:
        line = Lineage.read(resolve_folder(folder, "adapter"))
    except UnlearnError:  # gone, or not to be read
        return 0
    if line is None or line.records.key_id != ledger.key.id:
        return 0
    return len(set(digests) - set(line.records.trained))


def deposited(request: Request) -> Deposit:
    """Return a request's deposit.

    Raises LedgerError if it has none (closed).
    """
    if "escrow" not in request.facts:
        raise LedgerError(f"request {request.id} is {request.state}: its records were shredded")
    return Deposit(**request.facts["escrow"])


def selectors_of(ledger: Ledger, request: Request) -> list[str]:
    """Return how the records of a request were named."""
    content = ledger.escrow.get(request.id, deposited(request))
    return [str(s) for s in content["selectors"]]


def escrowed(ledger: Ledger, requests: Iterable[Request]) -> Records:
    """Return the records of requests, each content once, whatever has become of the data.

    Args:
        ledger: which.
        requests: located and not closed.

    Returns:
        The records, under the ids that they had.
    """
    rows: dict[str, dict[str, Any]] = {}
    for request in requests:
        for row in ledger.escrow.get(request.id, deposited(request))["records"]:
            digest = row.pop("digest")
            rows.setdefault(digest, row)
    names: set[str] = set()
    for digest, row in rows.items():
        if row["id"] in names:  # two data files used the id for different records
            row["id"] += f"#{digest[:8]}"
        names.add(row["id"])
    return Records.from_rows(rows.values(), "the escrow")


def _row(record: Record, key: Key) -> dict[str, Any]:
    row = {name: value for name, value in asdict(record).items() if value}
    return {**row, "digest": key.digest(record)}


def settle(
    ledger: Ledger,
    request: Request,
    located: Located,
    *,
    threshold: float | None,
    meaning: float | None = None,
    included: int = 0,
) -> Request:
    """Note which records a request is about, and put them in escrow.

    Args:
        ledger: where.
        request: received, or located before.
        located: what was found and confirmed.
        threshold: at which near-duplicates were looked for, if they were.
        meaning: at which records that say the same were looked for, if they were.
        included: how many near-duplicates were confirmed.

    Returns:
        The request, located.

    Raises:
        LedgerError: if it is past that.
    """
    key = ledger.key
    rows = [_row(record, key) for record in located.records]
    with ledger.writing() as writer:
        current = writer.get(request.id)
        old = deposited(current)
        if "run" in current.facts:
            raise LedgerError(
                f"request {request.id} is being carried out; `unlearn request run` goes on with it"
            )
        selectors = ledger.escrow.get(request.id, old)["selectors"]
        content = {"selectors": selectors, "records": rows}
        fresh = ledger.escrow.put(request.id, content)
        settled = writer.change(
            request.id,
            "located",
            escrow=asdict(fresh),
            records=sorted({row["digest"] for row in rows}),
            subjects=sorted({ledger.person(s) for s in located.records.subjects if s}),
            secrets=sum(len(record.secrets) for record in located.records),
            near={
                "threshold": threshold,
                "meaning": meaning,
                "seen": len(located.near),
                "included": included,
            },
            elsewhere=len({entry.id for entry in located.elsewhere}),
            artifacts=None,
            swept=None,
        )
    ledger.escrow.shred(ledger.escrow.folder / old.name)
    return settled
