"""What a recipe may say of a row whose adapter is made of shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unlearn.errors import OptionError
from unlearn.methods.method import Method
from unlearn.methods.registry import get_method
from unlearn.runs.options import SHARDS
from unlearn.shards.assignment import BY_RECORD, BY_SUBJECT

__all__ = ["METHOD", "ROW", "check_shards", "method_of"]

METHOD = SHARDS
"""Name of such a row's method."""

ROW = Method(
    METHOD,
    "exact: of K adapters, each of some people, train those again that hold the records",
    "1912.03817",
    "before any request: people who may ask are spread over shards when the adapter is trained",
    "about 1/K of the original training for one person",
    kind="exact",
    extra={"shards": 8, "by": BY_SUBJECT, "budget": 1.0, "quality": 0.1},
    run="",
)


def method_of(name: str) -> Method:
    """Return a method of a recipe: of `METHODS`, of the user's own, or shards."""
    return ROW if name == METHOD else get_method(name)


def check_shards(options: Mapping[str, Any], *, further: bool) -> None:
    """Refuse what a row of shards does not take.

    Args:
        options: of the row.
        further: whether the recipe asks for changes, triggers or tuning.

    Raises:
        OptionError: naming it.
    """
    if strange := sorted(set(options) - set(ROW.extra)):
        raise OptionError(
            f"method {METHOD}: {strange[0]} is for one adapter; shards take {', '.join(ROW.extra)}"
        )
    if options.get("by", BY_SUBJECT) not in {BY_SUBJECT, BY_RECORD}:
        raise OptionError(f"method {METHOD}: by is {BY_SUBJECT} or {BY_RECORD}")
    if further:
        raise OptionError(
            f"method {METHOD} is not measured after further changes, by a trigger or in trials: "
            "leave robustness, trigger and tune out, or the row"
        )
