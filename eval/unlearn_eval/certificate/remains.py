"""What stands beside a verdict, by the ledger of the request, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["not_claimed_of_remains", "remains_in_words"]


def remains_in_words(remains: Mapping[str, Any]) -> list[str]:
    """Say what a ledger knows that speaks against taking a verdict for the end of the matter.

    Args:
        remains: as a certificate holds it.

    Returns:
        Clauses, each by itself; empty when there is nothing.
    """
    return list(_clauses(remains))


def not_claimed_of_remains(remains: Mapping[str, Any] | None) -> list[str]:
    """Return what is not claimed because of what the ledger knows.

    Args:
        remains: as a certificate holds it; None outside a ledger.

    Returns:
        Sentences.
    """
    if remains is None:
        return []
    limits = [f"That nothing else is known: {each}." for each in remains_in_words(remains)]
    if remains["secrets_in_kept_records"] is None:
        limits.append("That no kept record holds a secret of these: nobody looked.")
    if remains["near_copies"] is None:
        limits.append("That no kept record nearly repeats these: nobody looked.")
    secrets = remains["secrets"]
    if secrets is not None and secrets["records"] and secrets["come_out"] is None:
        limits.append(
            "That the model does not complete the secrets of the records: it was not asked."
        )
    if remains["reason_noted"]:
        limits.append(
            f"That this was settled when the request was closed as {remains['closed_as']}: a "
            "reason was given, which the ledger keeps."
        )
    return limits


def _clauses(remains: Mapping[str, Any]) -> Iterator[str]:
    kept = remains["secrets_in_kept_records"]
    if kept:
        yield (
            f"{_n(kept, 'kept record')} {_hold(kept)} a secret of the records: the model is "
            "trained on that value and may give it out"
        )
    yield from _given_out(remains["secrets"])
    near = remains["near_copies"]
    if near:
        yield (
            f"{_n(near, 'kept record')} nearly {'repeats' if near == 1 else 'repeat'} one of the "
            "records, and stayed"
        )
    unclear, left = remains["unclear"], remains["left"]
    if unclear:
        are = "is" if unclear == 1 else "are"
        yield (
            f"{_n(unclear, 'thing')} that a sweep found and that may descend from the records "
            f"{are} still unclear"
        )
    if left:
        are = "is" if left == 1 else "are"
        yield f"{_n(left, 'artifact')} known to descend from the records {are} left"
    before = [outcome for outcome in remains["verdicts_before"] if outcome != "PASS"]
    if before:
        yield (
            f"this is verdict {len(remains['verdicts_before']) + 1} on the request; before it came "
            f"{', '.join(remains['verdicts_before'])}"
        )
    if remains["chosen"] == "after":
        yield "the policy was chosen after the model had been looked at"


def _given_out(secrets: Mapping[str, Any] | None) -> Iterator[str]:
    """Say that a secret comes out, and whether a kept record explains it."""
    if secrets is None or not secrets["come_out"]:
        return
    text = (
        f"asked the forgotten questions, the model completes a secret of "
        f"{secrets['come_out']} of {_n(secrets['records'], 'record')} that hold one: the value "
        "comes out"
    )
    if secrets["kept_records"]:
        text += (
            f"; {_n(secrets['kept_records'], 'kept record')} {_hold(secrets['kept_records'])} it"
        )
    yield text


def _n(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _hold(count: int) -> str:
    return "holds" if count == 1 else "hold"
