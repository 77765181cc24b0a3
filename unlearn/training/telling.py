"""Tell whoever watches a training run the losses of each step, one a term."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar

__all__ = ["Losses", "losses_told_to", "tell_losses"]

Losses = Callable[[Mapping[str, float]], None]
"""Told the losses of a step by term: `loss`, or `forget` and `retain`."""

_LISTENER: ContextVar[Losses | None] = ContextVar("losses of steps", default=None)


@contextlib.contextmanager
def losses_told_to(listener: Losses | None) -> Iterator[None]:
    """Let somebody be told the losses of the training runs inside; None tells nobody."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell_losses(losses: Mapping[str, float]) -> None:
    """Tell the losses of the step just done, weighted as they enter its sum."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(losses)
