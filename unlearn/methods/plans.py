"""What is about to run, and what it takes beside retraining."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unlearn.training.tokens import tokens_of

if TYPE_CHECKING:
    from unlearn.training.memory import Work

__all__ = ["AFFORDABLE", "Cost", "TrainingPlan", "steps_within", "tokens_of"]

AFFORDABLE = 0.5
"""Part of retraining above which an approximate method is told to be dear, and up to which it runs
by default."""


@dataclass(frozen=True)
class Cost:
    """What a training takes.

    Attributes:
        tokens: tokens that go forward and backward.
        seconds: expected wall time on this machine.
        work: the training whose steps take the most memory, where `unlearn.training.memory` counts
            all that they hold.
    """

    tokens: float
    seconds: float
    work: Work | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """What is about to run, told before it starts.

    Attributes:
        text: what will be done, in words.
        steps: optimizer steps at most.
        seconds: expected wall time if all steps run.
        notes: what the user should know.
        tokens: tokens that go forward and backward if all steps run; 0 where nobody counted.
        retraining: what training again without the records takes, where that is known and this is
            something else.
        usual: the part of all steps that is expected to run.
        work: as of `Cost`.
    """

    text: str
    steps: int
    seconds: float
    notes: tuple[str, ...]
    tokens: float = 0.0
    retraining: Cost | None = field(default=None)
    usual: float = 1.0
    work: Work | None = None

    @property
    def share(self) -> float | None:
        """Tokens if all steps run, relative to retraining; None where that is not known."""
        if self.retraining is None or not self.tokens or not self.retraining.tokens:
            return None
        return self.tokens / self.retraining.tokens

    @property
    def relative(self) -> str:
        """Say what it takes beside retraining; empty where that is not known."""
        if self.share is None or self.retraining is None:
            return ""
        if self.share == self.usual == 1:
            return f"as much as retraining: {self.tokens:,.0f} tokens"
        expected = self.share * self.usual
        most = f" (at most {self.share:.2g})" if self.usual < 1 else ""
        seconds = self.seconds * self.usual
        time = f", {seconds / self.retraining.seconds:.2g} of its time" if seconds else ""
        return (
            f"about {expected:.2g} of retraining{most}: {self.tokens * self.usual:,.0f} of "
            f"{self.retraining.tokens:,.0f} tokens{time}"
        )

    @property
    def advice(self) -> tuple[str, ...]:
        """Say that retraining is no dearer, where an approximate method takes as much."""
        if self.share is None or self.usual < 1 or self.share <= AFFORDABLE:
            return ()
        return (
            f"this takes {self.share:.2g} of what retraining takes, and only approximates it: "
            "--method retrain -o budget=auto is exact, and cheaper where training had slack",
        )


def steps_within(limit: float, tokens: Callable[[int], float], most: int) -> int:
    """Return the largest number of steps whose tokens are within a limit, at least 1.

    Args:
        limit: tokens.
        tokens: what a number of steps takes; it does not fall as that number rises.
        most: steps at most.

    Returns:
        A number from 1 to `most`.
    """
    return max(1, bisect.bisect_right(range(1, most + 1), limit, key=tokens))
