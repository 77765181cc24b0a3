"""What is about to run, and what it takes beside retraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from unlearn.data.tokenization import Example
from unlearn.training.options import TrainingOptions

__all__ = ["Cost", "TrainingPlan", "tokens_of"]

_MUCH = 0.5
"""Part of retraining above which an approximate method is told to be dear."""


@dataclass(frozen=True)
class Cost:
    """What a training takes.

    Attributes:
        tokens: tokens that go forward and backward.
        seconds: expected wall time on this machine.
    """

    tokens: float
    seconds: float


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
    """

    text: str
    steps: int
    seconds: float
    notes: tuple[str, ...]
    tokens: float = 0.0
    retraining: Cost | None = field(default=None)
    usual: float = 1.0

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
        if self.share is None or self.usual < 1 or self.share <= _MUCH:
            return ()
        return (
            f"this takes {self.share:.2g} of what retraining takes, and only approximates it: "
            "--method retrain -o budget=auto is exact, and often takes a quarter of it",
        )


def tokens_of(
    training: TrainingOptions,
    steps: int,
    forget: Sequence[Example],
    retain: Sequence[Example],
    alternates: Sequence[Example] = (),
) -> float:
    """Return the tokens that go forward and backward in a number of steps.

    Args:
        training: options.
        steps: optimizer steps.
        forget: examples to forget; empty for plain training.
        retain: examples to keep, or to train on.
        alternates: what to answer instead.

    Returns:
        Tokens, from the mean length of each part.
    """
    rows = steps * training.batch_size
    if not forget:
        return rows * _mean_length(retain)
    each = training.forget_passes * _mean_length(forget) + _mean_length(alternates)
    return rows * (each + training.retain_ratio * _mean_length(retain))


def _mean_length(examples: Sequence[Example]) -> float:
    return sum(len(example.ids) for example in examples) / max(1, len(examples))
