"""How numbers, durations and names of states are written."""

from __future__ import annotations

__all__ = ["duration", "percent", "span", "state_name"]


def percent(share: float) -> str:
    """Write a share as a percentage, never rounding something to nothing or to everything."""
    if 0 < share < 0.01:
        return "under 1%" if share < 0.005 else "1%"
    if 0.99 < share < 1:
        return "over 99%" if share > 0.995 else "99%"
    return f"{share:.0%}"


def duration(seconds: float) -> str:
    """Write a time span as people say it."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def state_name(state: str) -> str:
    """Return what people call a state."""
    if state.startswith("reference:"):
        return f"retrained {int(state.removeprefix('reference:')) + 1}"
    return {"base": "base model", "references": "retrained"}.get(state, state)


def span(ends: tuple[float, float]) -> str:
    """Write a range of shares as games of a hundred."""
    low, high = (f"{100 * end:.0f}" for end in ends)
    return low if low == high else f"{low} to {high}"
