"""Check a ledger: is everything as it was written, and do files on disk still match?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from unlearn.apps.requests.evidence import audit_digest, audit_of, verdict_digest
from unlearn.apps.requests.intake import note_shredded, unshredded
from unlearn.apps.requests.ledger import schema
from unlearn.apps.requests.ledger.chain import START, Entry, first_break, head_problem
from unlearn.apps.requests.ledger.escrow import Deposit
from unlearn.apps.requests.ledger.ledger import Ledger, Request
from unlearn.apps.requests.ledger.writer import differing, follow, request_of
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
    """

    requests: int
    entries: int
    head: str
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Say whether everything held."""
        return not self.problems


def check(ledger: Ledger, *, expect_head: str | None = None, files: bool = True) -> LedgerCheck:
    """Check the history, the requests' rows against it, and the files that they name.

    Args:
        ledger: which.
        expect_head: a head noted earlier, which must still be in the history.
        files: look at escrow files, adapters and audits too.

    Returns:
        What was found.
    """
    # as a writer, so that no escrow file is on its way between disk and row
    with ledger.alone() as writer:
        connection = writer.connection
        head = connection.execute(sa.select(schema.head)).one()
        columns = schema.history.c
        query = sa.select(*(columns[name] for name in Entry._fields)).order_by(columns.seq)
        entries = [Entry(*row) for row in connection.execute(query)]
        query_all = sa.select(schema.requests).order_by(schema.requests.c.number)
        rows = connection.execute(query_all).all()
        try:
            strays = ledger.escrow.strays(writer.deposits()) if files else []
        except LedgerError:  # a row of odd content, which is told below
            strays = []
    problems = list(first_break(entries, ledger.key))
    last = (entries[-1].seq, entries[-1].hash) if entries else (0, START)
    end = head_problem(ledger.key, ledger.id, head, last)
    problems += [end] if end else []
    if expect_head is not None and expect_head not in {START, *(e.hash for e in entries)}:
        problems.append(
            f"the head {expect_head[:12]}… noted earlier is not in the history: the ledger was put "
            "back to an older copy, or rewritten"
        )
    problems += _rows(entries, rows)
    unfinished: list[str] = []
    if files and not problems:
        requests = [request_of(row) for row in rows]
        unfinished = [each.id for each in requests if unshredded(ledger, each)]
        strays = [path for path in strays if not _belongs_to(path, unfinished)]
        bad = [each for look in (_escrow, _adapters, _audits) for each in look(ledger, requests)]
        # files change while they are looked at, as requests do
        now = {request.id: request for request in ledger.requests()} if bad else {}
        problems += [problem for request, problem in bad if now.get(request.id) == request]
        problems += _left_in_escrow(ledger, unfinished)
    notes = [f"{path} is left over from an interrupted command" for path in strays]
    more = len(problems) - _SHOWN
    shown = problems[:_SHOWN] + ([f"… and {more} more"] if more > 0 else [])
    return LedgerCheck(
        len(rows), len(entries), str(head.hash), tuple(shown), tuple(notes), tuple(unfinished)
    )


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


def _rows(entries: Sequence[Entry], rows: Sequence[Any]) -> Iterator[str]:
    """Replay the history, and compare what it adds up to with the rows."""
    replayed: dict[str, dict[str, Any]] = {}
    for entry in entries:
        try:
            content = json.loads(entry.content)
            replayed[entry.request] = follow(replayed.get(entry.request, {}), content)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            LedgerError,
        ) as error:
            yield f"history entry {entry.seq} (request {entry.request}): {error}"
            return
    for row in rows:
        known = replayed.pop(row.id, {})
        try:
            facts = json.loads(row.facts)
        except (ValueError, RecursionError):
            facts = None
        there = {
            "state": row.state,
            "facts": facts,
            "created": row.created,
            "changed": row.changed,
            "line": row.line,
        }
        if not known:
            yield f"request {row.id} (number {row.number}) is not in the history"
        elif wrong := differing(there, known):
            yield f"request {row.id} (number {row.number}): its {', '.join(wrong)} was changed"
    for name in replayed:
        yield f"request {name} is in the history, but its row is gone"


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
