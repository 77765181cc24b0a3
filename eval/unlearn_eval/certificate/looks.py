"""How many models were tried for a request, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["bound_of_tries", "not_claimed_of_tries", "tries"]

_OF = {
    "request": ("for this request", "in comparisons of methods"),
    "comparison": ("in comparisons of methods", "for a request"),
}


def tries(looks: Mapping[str, Any]) -> str:
    """Say how many models and sets of references a request was looked at with.

    Args:
        looks: as `audit.json` and a certificate hold them.

    Returns:
        A sentence without its full stop.
    """
    here, there = _OF[looks["scope"]]
    models, sets, others = looks["models"], looks["reference_sets"], looks["models_elsewhere"]
    text = f"{_models(models)} audited {here} (this is the {_ordinal(looks['nth'])})"
    if sets:
        text += f", with {sets} {'set' if sets == 1 else 'sets'} of references"
    if purged := looks["purged_references"]:
        was, it = ("was", "it") if purged == 1 else ("were", "they")
        text += f", of which {purged} {was} deleted since, as {it} held records of other requests"
    if others:
        text += f"; on the same records {_models(others, 'more ')} audited {there}"
    if looks["log"] == "broken":
        return f"At least {text}; the log of looks does not hold: tries are not known"
    if looks["log"] == "none":
        return "No log of looks could be kept: how many models were audited is not known"
    return text


def bound_of_tries(looks: Mapping[str, Any], alpha: Any) -> str:
    """Say how likely it is that one of several tries passes by chance.

    Of N models at the policy's margin, each of which passes with probability α at most, at least
    one passes with probability up to min(1, N·α): a bound, whatever they have in common.

    Args:
        looks: as a certificate holds them.
        alpha: of the policy; no number is named where it is none.

    Returns:
        A sentence; empty for the first and only try.
    """
    n = looks["models"] + looks["models_elsewhere"]
    if n < 2:
        return ""
    text = f"With {n:,} tries a model at the policy's margin passes at least once with probability "
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        return f"{text}up to {n:,} times that of one try."
    return f"{text}up to {min(1.0, n * alpha):.2g} (a bound: {n:,} times {alpha:g}, at most 1)."


def not_claimed_of_tries(looks: Mapping[str, Any] | None, alpha: Any) -> list[str]:
    """Return what a verdict on one of several tries is not.

    Args:
        looks: as a certificate holds them; None where the audit did not count.
        alpha: of the policy.

    Returns:
        Sentences.
    """
    only = "That this was the only try"
    if looks is None:
        return [f"{only}: the audit did not count how many models were audited."]
    if looks["log"] == "none":
        return [f"{only}. {tries(looks)}."]
    bound = bound_of_tries(looks, alpha)
    limits = [f"{only}. {tries(looks)}. {bound}".rstrip()] if bound else []
    if looks["log"] == "broken":
        return limits or [f"{only}. {tries(looks)}."]
    return [
        *limits,
        "That no other models were tried where this log does not see it: under another key, or in "
        "another home of the toolkit.",
    ]


def _models(n: int, more: str = "") -> str:
    return f"{n:,} {more}{'model was' if n == 1 else 'models were'}"


def _ordinal(n: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{n:,}{'th' if n % 100 in (11, 12, 13) else ends.get(n % 10, 'th')}"
