"""By when a request must be done, such as a month after it came."""

from __future__ import annotations

import contextlib
import datetime

from unlearn.apps.requests.ledger.book import Request
from unlearn.errors import LedgerError
from unlearn.provenance.lineage import now

__all__ = ["due_time", "due_words"]


def due_time(text: str) -> str:
    """Return a time by which a request must be done, as the ledger writes times.

    Args:
        text: a date, which means its last second in UTC, or a time with its offset from UTC.

    Returns:
        ISO 8601 in UTC, to the second.

    Raises:
        LedgerError: if it is neither.
    """
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        pass
    else:
        return f"{day.isoformat()}T23:59:59+00:00"
    moment: datetime.datetime | None = None
    with contextlib.suppress(ValueError, OverflowError):  # a year before 1 in UTC, or after 9999
        given = datetime.datetime.fromisoformat(text)
        moment = None if given.tzinfo is None else given.astimezone(datetime.UTC)
    if moment is None:
        raise LedgerError(
            f"--due {text}: give a date such as 2026-03-22, or a time with its offset from "
            "UTC such as 2026-03-22T12:00+01:00"
        )
    return moment.isoformat(timespec="seconds")


def due_words(request: Request) -> str:
    """Return the day on which a request is due, and whether that has passed while it is open.

    Args:
        request: which.

    Returns:
        A few words; none without a due date.
    """
    due = str(request.facts.get("due") or "")
    late = due and request.state != "closed" and due < now()
    return due[:10] + (" (overdue)" if late else "")
