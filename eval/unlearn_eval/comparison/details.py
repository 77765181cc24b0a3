"""What the page of one method tells beyond its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["About", "Curve", "Run"]

Curve = Sequence[tuple[float, float]]
"""(step, loss) pairs, as training logged them."""


@dataclass(frozen=True)
class Run:
    """One unlearning run.

    Attributes:
        seed: its seed.
        forget: number of its forget set.
        curve: the loss that was minimised, in nats a token where the method's loss is in nats.
        forget_curve: mean loss of the records to forget, as training saw them, in nats a token.
        retain_curve: mean loss of the last records to keep that training saw, in nats a token.
        steps: optimiser steps taken.
        planned: steps that were planned; a stop rule may end a run before.
        notes: what it noted.
        options: every option in effect, as text.
    """

    seed: int
    forget: int
    curve: Curve = ()
    forget_curve: Curve = ()
    retain_curve: Curve = ()
    steps: int | None = None
    planned: int | None = None
    notes: Sequence[str] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """A row of the comparison: what its method is, and how it was run.

    Attributes:
        name: of the row.
        method: what `unlearn forget --method` calls it.
        summary: what it does.
        paper: arXiv id.
        when: when to use it.
        cost: forward and backward passes a step.
        given: options that the recipe, or tuning, sets.
        runs: one a cell that has unlearned.
    """

    name: str
    method: str
    summary: str
    paper: str
    when: str
    cost: str
    given: Mapping[str, str] = field(default_factory=dict)
    runs: Sequence[Run] = ()
