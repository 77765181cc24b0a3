"""What a ledger's history adds up to: where each request stands, and what happened to it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from unlearn.apps.requests.ledger.chain import START, Entry
from unlearn.apps.requests.ledger.states import State, after
from unlearn.errors import LedgerError

__all__ = ["Book", "Event", "Request", "follow"]


class Request(NamedTuple):
    """Where a request stands.

    Attributes:
        number: counts from 1, in the order in which requests were added.
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


class Event(NamedTuple):
    """An entry of the history: what happened, and the facts it set."""

    seq: int
    at: str
    request: str
    event: str
    state: State
    facts: Mapping[str, Any]


class Book:
    """A history, entry by entry, and what it adds up to.

    Nothing here is checked against the key: see `chain.first_break` and `chain.head_problem`.

    Attributes:
        seq: number of the last entry; 0 before the first.
        hash: its hash.
        requests: by id, in the order in which they were added.
        events: of each request, by its id.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.hash = START
        self.requests: dict[str, Request] = {}
        self.events: dict[str, list[Event]] = {}

    def read(self, entries: Iterable[Entry]) -> None:
        """Take entries in, in order.

        Args:
            entries: that follow on the last one.

        Raises:
            LedgerError: if one does not say what could have happened, which its writer would not
                have written.
        """
        for entry in entries:
            try:
                self._take(json.loads(entry.content))
            except (ValueError, KeyError, TypeError, RecursionError, LedgerError) as error:
                raise LedgerError(f"history entry {entry.seq}: {error}") from None
            self.seq, self.hash = entry.seq, entry.hash

    def _take(self, content: dict[str, Any]) -> None:
        name = content["request"]
        before = self.requests.get(name)
        # older ledgers noted no numbers
        number = content.pop("number", None if before else len(self.requests) + 1)
        self.requests[name] = follow(before, content, number)
        if before is None:
            if number != len(self.requests):
                raise LedgerError(f"request {name} cannot have the number {number}")
            self.events[name] = []
        self.events[name].append(Event(**content))

    def select(self, states: Collection[State] = (), line: str | None = None) -> Iterator[Request]:
        """Yield requests in the order of their numbers.

        Args:
            states: only in these; all when empty.
            line: only of this line.

        Yields:
            The requests.
        """
        for request in self.requests.values():
            if (not states or request.state in states) and line in {None, request.line}:
                yield request

    def named(self, name: str) -> list[Request]:
        """Return the request of a number or an id; else those whose ids begin like this."""
        key = name.lower()
        exact = [r for r in self.requests.values() if key in {r.id, str(r.number)}]
        return exact or [r for r in self.requests.values() if r.id.startswith(key)]

    def deposits(self) -> set[str]:
        """Return the names of all escrow files in force."""
        noted = (r.facts.get("escrow") for r in self.requests.values() if r.state != "closed")
        return {deposit["name"] for deposit in noted if deposit}


def follow(
    request: Request | None, content: Mapping[str, Any], number: int | None = None
) -> Request:
    """Return what a request's history adds up to with one more entry.

    Args:
        request: what it added up to before; None before the first.
        content: of the entry.
        number: of the request that it adds.

    Returns:
        The request.

    Raises:
        LedgerError: if that cannot happen in the state before.
    """
    event, at, new = content["event"], content["at"], content["facts"]
    state = after(event, request.state if request else None)
    if state != content["state"]:
        raise LedgerError(f"{event} does not lead to {content['state']}")
    facts = {**(request.facts if request else {}), **new}
    if None in new.values():  # which takes a fact back
        facts = {key: value for key, value in facts.items() if value is not None}
    if request is None:
        assert number is not None
        return Request(number, content["request"], state, facts["line"], at, at, facts)
    return Request(request.number, request.id, state, request.line, request.created, at, facts)
