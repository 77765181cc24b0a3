"""The life of a request: its states, and which event may follow in which."""

from __future__ import annotations

from typing import Literal, get_args

from unlearn.errors import LedgerError, did_you_mean

__all__ = ["EVENTS", "OPEN", "STATES", "State", "after", "known_state"]

State = Literal["received", "located", "unlearned", "verified", "failed", "inconclusive", "closed"]

STATES: tuple[State, ...] = get_args(State)
OPEN: tuple[State, ...] = STATES[:-1]
_DECIDED: tuple[State, ...] = ("verified", "failed", "inconclusive")
_RUN: tuple[State, ...] = ("unlearned", *_DECIDED)

EVENTS: dict[str, tuple[tuple[State | None, ...], State | None]] = {
    "added": ((None,), "received"),
    "located": (("received", "located"), "located"),
    "planned": (("located",), "located"),
    "abandoned": (("located",), "located"),
    "unlearned": (("located",), "unlearned"),
    "superseded": (_RUN, "unlearned"),
    "verified": (_RUN, "verified"),
    "failed": (_RUN, "failed"),
    "inconclusive": (_RUN, "inconclusive"),
    "reopened": (("failed", "inconclusive"), "located"),
    "swept": (OPEN, None),
    "cleaned": (OPEN, None),
    "certified": ((*_DECIDED, "closed"), None),
    "closed": (OPEN, "closed"),
    "shredded": (("closed",), None),
}
"""Event → (states it may happen in, the state it leads to; None: stays as it was).

`added` happens to no request yet. `planned` and `abandoned` bracket a run that is under way;
`superseded` follows when a later run on the same line of adapters made a new adapter, for which
the old verdict does not hold. `shredded` follows `closed` once the records in escrow are seen to be
gone.
"""


def known_state(name: str) -> State:
    """Return a state by its name.

    Raises LedgerError if there is none, with the nearest.
    """
    for state in STATES:
        if state == name:
            return state
    raise LedgerError(f"unknown state {name!r}{did_you_mean(name, STATES)}")


def after(event: str, state: State | None) -> State:
    """Return the state that an event leads to.

    Args:
        event: what happened.
        state: the state before; None before a request is there.

    Returns:
        The state afterwards.

    Raises:
        LedgerError: if the event is unknown, or cannot happen in that state.
    """
    if event not in EVENTS:
        raise LedgerError(f"unknown event {event!r}{did_you_mean(event, EVENTS)}")
    allowed, target = EVENTS[event]
    if state not in allowed:
        names = ", ".join(str(s) for s in allowed if s)
        raise LedgerError(
            f"a request that is {state or 'not there yet'} cannot be {event}"
            + (f"; it must be {names}" if names else "")
        )
    result = target or state
    assert result is not None
    return result
