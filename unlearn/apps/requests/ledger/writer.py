"""What a request is, and the writer through which everything happens to it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from unlearn.apps.requests.ledger import schema
from unlearn.apps.requests.ledger.chain import canonical, entry_mac, head_mac, link
from unlearn.apps.requests.ledger.parsing import FACTS, parsed
from unlearn.apps.requests.ledger.states import State, after
from unlearn.errors import LedgerError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import now

__all__ = ["Event", "Request", "Writer", "differing", "follow", "merge", "new_id", "request_of"]


@dataclass(frozen=True)
class Request:
    """Where a request stands.

    Attributes:
        number: counts from 1.
        id: 12 hexadecimal digits.
        state: see `states`.
        line: digest of the first adapter of the line that the request is about.
        created: when it was added.
        changed: when something last happened.
        facts: what is known of it, as its history adds up.
    """

    number: int
    id: str
    state: State
    line: str
    created: str
    changed: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Event:
    """An entry of the history: what happened, and the facts it set."""

    seq: int
    at: str
    request: str
    event: str
    state: State
    facts: Mapping[str, Any]


class Writer:
    """Makes changes within one transaction.

    Args:
        connection: which holds the head row.
        key: the ledger's key.
        seq: number of the last entry.
        digest: its hash.
    """

    def __init__(self, connection: sa.Connection, key: Key, seq: int, digest: str) -> None:
        self.connection, self._key = connection, key
        self._seq, self._hash = seq, digest
        self._entries: list[dict[str, Any]] = []

    def add(self, facts: Sequence[Mapping[str, Any]], ids: Sequence[str] = ()) -> list[str]:
        """Add requests.

        Args:
            facts: of each, among them its `line`.
            ids: theirs, where they were drawn before (see `new_id`).

        Returns:
            The ids.
        """
        if not facts:
            return []
        number = self.connection.scalar(sa.select(sa.func.max(schema.requests.c.number))) or 0
        known = set(self.connection.scalars(sa.select(schema.lines.c.line)))
        lines = [x for x in dict.fromkeys(str(f["line"]) for f in facts) if x not in known]
        if lines:
            self.connection.execute(schema.lines.insert(), [{"line": line} for line in lines])
        names = list(ids) or [new_id() for _ in facts]
        rows = []
        for i, (name, own) in enumerate(zip(names, facts, strict=True), start=1):
            at = self._append(name, "added", "received", own)
            rows.append(
                {
                    "number": number + i,
                    "id": name,
                    "state": "received",
                    "line": own["line"],
                    "created": at,
                    "changed": at,
                    "facts": canonical(merge({}, own)),
                }
            )
        self.connection.execute(schema.requests.insert(), rows)
        return names

    def change(self, request: str, event: str, **facts: Any) -> Request:
        """Let something happen to a request.

        Args:
            request: its id.
            event: see `states.EVENTS`.
            **facts: what is known now; None takes a fact back.

        Returns:
            The request afterwards.

        Raises:
            LedgerError: if that cannot happen in its state, or the row was changed from outside.
        """
        before = self.get(request)
        self._agrees(before)
        state = after(event, before.state)
        at = self._append(request, event, state, facts)
        merged = merge(before.facts, facts)
        self.connection.execute(
            schema.requests.update()
            .where(schema.requests.c.id == request)
            .values(state=state, changed=at, facts=canonical(merged))
        )
        return Request(before.number, request, state, before.line, before.created, at, merged)

    def get(self, request: str) -> Request:
        """Return a request by its whole id, as it is within the transaction."""
        table = schema.requests
        return request_of(
            self.connection.execute(sa.select(table).where(table.c.id == request)).one()
        )

    def _agrees(self, request: Request) -> None:
        """Refuse a row that is not what its history adds up to.

        What happens next would otherwise be built on it, and make it look as if all were well.
        """
        table = schema.history
        query = sa.select(table.c.content).where(table.c.request == request.id)
        written = list(self.connection.scalars(query.order_by(table.c.seq)))
        written += [e["content"] for e in self._entries if e["request"] == request.id]
        known: Mapping[str, Any] = {}
        try:
            for content in written:
                known = follow(known, json.loads(content))
            wrong = differing(vars(request), known)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, LedgerError):
            wrong = ["history"]
        if wrong:
            raise LedgerError(
                f"request {request.id} (number {request.number}): its {', '.join(wrong)} was "
                "changed from outside; `unlearn request check` looks at the whole ledger; put a "
                "backup in its place before going on"
            )

    def deposits(self) -> set[str]:
        """Return the names of all escrow files in force."""
        rows = self.connection.scalars(
            sa.select(schema.requests.c.facts).where(schema.requests.c.state != "closed")
        )
        noted = (parsed(row, FACTS, "a request").get("escrow") for row in rows)
        return {deposit["name"] for deposit in noted if deposit}

    def _append(self, request: str, event: str, state: State, facts: Mapping[str, Any]) -> str:
        self._seq += 1
        at = now()
        content = canonical(
            {
                "seq": self._seq,
                "at": at,
                "request": request,
                "event": event,
                "state": state,
                "facts": dict(facts),
            }
        )
        self._hash = link(self._hash, content)
        mac = entry_mac(self._key, self._hash)
        self._entries.append(
            {
                "seq": self._seq,
                "request": request,
                "content": content,
                "hash": self._hash,
                "mac": mac,
            }
        )
        return at

    def finish(self, ledger: str) -> None:
        """Write the new entries and the head."""
        if not self._entries:
            return
        self.connection.execute(schema.history.insert(), self._entries)
        mac = head_mac(self._key, ledger, self._seq, self._hash)
        self.connection.execute(
            schema.head.update().values(seq=self._seq, hash=self._hash, mac=mac)
        )


def follow(known: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request's history adds up to with one more entry.

    Args:
        known: what it added up to before; empty before the first.
        content: of the entry.

    Returns:
        `state`, `facts`, `line`, `created` and `changed`.

    Raises:
        LedgerError: if that cannot happen in the state before.
    """
    state = after(content["event"], known.get("state"))
    if state != content["state"]:
        raise LedgerError(f"{content['event']} does not lead to {content['state']}")
    facts = merge(known.get("facts", {}), content["facts"])
    created = known.get("created", content["at"])
    return {
        "state": state,
        "facts": facts,
        "created": created,
        "changed": content["at"],
        "line": facts.get("line"),
    }


def differing(row: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Return in what a request's row is not what its history adds up to.

    Args:
        row: what stands there.
        known: see `follow`; empty where there is no history.

    Returns:
        Names of columns.
    """
    columns = ("state", "facts", "created", "changed", "line")
    return [name for name in columns if row[name] != known.get(name)]


def new_id() -> str:
    """Return a fresh id for a request."""
    return secrets.token_hex(6)


def merge(facts: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts with others put over them; None takes one away."""
    return {key: value for key, value in {**facts, **patch}.items() if value is not None}


def request_of(row: Any) -> Request:
    """Return the request of a row."""
    facts = parsed(row.facts, FACTS, f"request {row.id} (number {row.number})")
    return Request(row.number, row.id, row.state, row.line, row.created, row.changed, facts)
