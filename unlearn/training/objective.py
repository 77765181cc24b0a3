"""What a training run minimises: a forget and a retain term, and what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from unlearn.losses import Loss
from unlearn.model.scoring import Projection
from unlearn.training.sampler import FORGET, RETAIN

__all__ = ["Constraint", "Objective", "Teacher"]


@dataclass(frozen=True)
class Constraint:
    """Keep the retain records' mean loss under a limit, by a weight that follows its violation.

    After each optimizer step λ ← max(0, λ + η·(l̄_r − ε)): projected gradient ascent on the dual
    (2506.05314). λ starts at the objective's retain weight.

    Attributes:
        limit: ε, in nats a token.
        rate: η.
    """

    limit: float
    rate: float


@dataclass(frozen=True)
class Objective:
    """forget_weight · L_forget + retain_weight · L_retain; a missing term is absent, not zero.

    Attributes:
        forget: loss of the forget records.
        retain: loss of the retain records.
        forget_weight: weight of the first.
        retain_weight: weight of the second.
        constraint: lets the second weight follow the retain loss.
    """

    forget: Loss | None = None
    retain: Loss | None = None
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    constraint: Constraint | None = None

    def terms(self) -> list[tuple[int, Loss, float]]:
        """Return (role, loss, weight) of the terms there are."""
        both = (
            (FORGET, self.forget, self.forget_weight),
            (RETAIN, self.retain, self.retain_weight),
        )
        return [(role, loss, weight) for role, loss, weight in both if loss is not None]

    @property
    def needs(self) -> frozenset[str]:
        """What the terms need beyond the model's own log-probabilities."""
        return frozenset().union(*(loss.needs for _, loss, _ in self.terms()))


@dataclass(frozen=True)
class Teacher:
    """What a model predicted of the forget records, kept so that the model need not be.

    Attributes:
        hidden: hidden states at the target tokens of each forget record, [tokens, H].
        head: what makes logits of them; a model's projection.
    """

    hidden: Sequence[Tensor]
    head: Projection
