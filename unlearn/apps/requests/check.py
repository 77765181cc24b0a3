"""Check a ledger: is everything as it was written, and do files on disk still match?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from unlearn.apps.requests.closing import note_shredded, unshredded
from unlearn.apps.requests.evidence import audit_digest, audit_of, verdict_digest
from unlearn.apps.requests.ledger import schema
from unlearn.apps.requests.ledger.book import Book, Request
from unlearn.apps.requests.ledger.chain import START, Entry, first_break, head_problem
from unlearn.apps.requests.ledger.escrow import Deposit
from unlearn.apps.requests.ledger.ledger import Ledger, entries_after
from unlearn.apps.requests.ledger.upgrade import differences
from unlearn.errors import LedgerError, UnlearnError
from unlearn.provenance.lineage import weights_digest

__all__ = ["LedgerCheck", "check", "check_and_finish"]

_SHOWN = 20


@dataclass(frozen=True)
class LedgerCheck:
    """What a check found.

    Attributes:
        requests: how many there are.
        entries: how many entries the history has.
        head: hash of the last; note it elsewhere, to notice a ledger put back to an old copy.
        problems: what does not hold, the first broken entry first; empty when all does.
        notes: leftovers that are no sign of tampering.
        unfinished: ids of closed requests of which it is not noted that their records are gone.
        readable: whether the history is whole, so that what it adds up to can be told.
    """

    requests: int
    entries: int
    head: str
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    readable: bool = True

    @property
    def ok(self) -> bool:
        """Say whether everything held."""
        return not self.problems


def check(ledger: Ledger, *, expect_head: str | None = None, files: bool = True) -> LedgerCheck:
    """Check the history, and the files that what it adds up to names.

    Args:
        ledger: which.
        expect_head: a head noted earlier, which must still be in the history.
        files: look at escrow files, adapters and audits too.

    Returns:
        What was found.

    Raises:
        LedgerError: if the head is gone, or the database cannot be read.
    """
    # while nobody writes, so that no escrow file is on its way between disk and history
    with ledger.alone() as connection:
        head = connection.execute(sa.select(schema.head)).one()
        entries = entries_after(connection, -1)
        book, problems = _read(ledger, head, entries)
        if head.schema == 1 and not problems:
            problems += differences(connection, book)
        strays = ledger.escrow.strays(book.deposits()) if files and not problems else []
    readable = not problems
    if expect_head is not None and expect_head not in {START, *(e.hash for e in entries)}:
        problems.append(
            f"the head {expect_head[:12]}… noted earlier is not in the history: the ledger was put "
            "back to an older copy, or rewritten"
        )
    unfinished: list[str] = []
    if files and not problems:
        requests = list(book.requests.values())
        unfinished = [each.id for each in requests if unshredded(ledger, each)]
        strays = [path for path in strays if not _belongs_to(path, unfinished)]
        bad = [each for look in (_escrow, _adapters, _audits) for each in look(ledger, requests)]
        # files change while they are looked at, as requests do
        now = {request.id: request for request in ledger.requests()} if bad else {}
        problems += [problem for request, problem in bad if now.get(request.id) == request]
        problems += _left_in_escrow(ledger, unfinished)
    more = len(problems) - _SHOWN
    return LedgerCheck(
        requests=len(book.requests),
        entries=len(entries),
        head=str(head.hash),
        problems=(*problems[:_SHOWN], *([f"… and {more} more"] if more > 0 else [])),
        notes=tuple(f"{path} is left over from an interrupted command" for path in strays),
        unfinished=tuple(unfinished),
        readable=readable,
    )


def _read(ledger: Ledger, head: Any, entries: Sequence[Entry]) -> tuple[Book, list[str]]:
    """Return what the history adds up to as far as it is whole, and what is wrong with it."""
    last = (entries[-1].seq, entries[-1].hash) if entries else (0, START)
    end = head_problem(ledger.key, ledger.id, head, last)
    problems = [*first_break(entries, ledger.key), *([end] if end else [])]
    book = Book()
    if not problems:
        try:
            book.read(entries)
        except LedgerError as error:
            problems.append(str(error))
    return book, problems


def check_and_finish(ledger: Ledger, *, expect_head: str | None = None) -> LedgerCheck:
    """Check a ledger, finish what interrupted commands left of closed requests, and check again.

    Where anything else does not hold, nothing is touched: a ledger that was put back to another
    copy does not know what is closed.

    Args:
        ledger: which.
        expect_head: see `check`.

    Returns:
        What was found, with a note of what was finished.
    """
    found = check(ledger, expect_head=expect_head)
    left = set(_left_in_escrow(ledger, found.unfinished))
    if not found.unfinished or set(found.problems) - left:
        return found
    notes = []
    for name in found.unfinished:
        ledger.escrow.shred(*ledger.escrow.of(name))
        note_shredded(ledger, ledger.get(name))
        notes.append(
            f"request {name} is closed: its records in escrow are gone, which is noted now"
        )
    again = check(ledger, expect_head=expect_head)
    return replace(again, notes=(*notes, *again.notes))


def _left_in_escrow(ledger: Ledger, names: Sequence[str]) -> list[str]:
    """Say which records of closed requests still lie in escrow."""
    return [
        f"request {name} is closed, and its records still lie in escrow: {path}"
        for name in names
        for path in ledger.escrow.of(name)
    ]


def _belongs_to(path: Path, names: Sequence[str]) -> bool:
    return path.name.lstrip(".").startswith(tuple(names)) if names else False


_Problems = Iterator[tuple[Request, str]]


def _escrow(ledger: Ledger, requests: Sequence[Request]) -> _Problems:
    for request in requests:
        if "escrow" in request.facts:
            try:
                ledger.escrow.get(request.id, Deposit(**request.facts["escrow"]))
            except LedgerError as error:
                yield request, f"request {request.id}: {error}"


def _adapters(ledger: Ledger, requests: Sequence[Request]) -> _Problems:
    """Compare the adapters that open requests rest on with the digests noted when made."""
    checked: set[str] = set()
    for request in requests:
        made = request.facts.get("after")
        if request.state == "closed" or not made or made["digest"] in checked:
            continue
        checked.add(made["digest"])
        folder = ledger.sealer.open(made["folder"], f"adapter {made['digest']}")
        try:
            if weights_digest(folder) != made["digest"]:
                yield (
                    request,
                    f"request {request.id}: the adapter {folder} was changed after it was made",
                )
        except UnlearnError:
            yield request, f"request {request.id}: the adapter {folder} is gone"


def _audits(ledger: Ledger, requests: Sequence[Request]) -> _Problems:
    for request in requests:
        if request.state != "closed" and "verdict" in request.facts:
            folder, _ = audit_of(ledger, request)
            where = f"request {request.id}: the audit {folder}"
            try:
                if audit_digest(folder) != request.facts["verdict"]["audit"]:
                    yield request, f"{where} was changed after the verdict"
                elif verdict_digest(folder) != request.facts["verdict"].get("file"):
                    yield request, f"{where} holds another verdict than was noted"
            except OSError:
                yield request, f"{where} is gone"
