"""SCRUB: move away from the model before on the forget records, stay with it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn.errors import OptionError
from unlearn.losses._view import Need, TokenView, Unit
from unlearn.losses.kl import kl_divergence
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["AwayFromBefore", "StayAndLearn"]


@dataclass(frozen=True)
class AwayFromBefore:
    """The negative of KL(before ‖ model), mean over target tokens.

    The forget term of SCRUB (2302.09880, equation 3; there in epochs of its own between those of
    the retain term, here in the same step). Unbounded below. At the start its gradient is 0, since
    model and teacher agree: it is the retain term that takes the first step.
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"before_logits"})

    @property
    def statistic(self) -> TokenStatistic:
        """−KL(before ‖ model) of each token."""

        def away(logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
            return -kl_divergence(logits, target, reference)

        return away

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the negated divergences."""
        return view.values.sum()


@dataclass(frozen=True)
class StayAndLearn:
    """Mean over target tokens of α·KL(before ‖ model) − γ·log p.

    The retain term of SCRUB (2302.09880, equation 3).

    Attributes:
        alpha: weight α of the divergence; .001 in the authors' code.
        gamma: weight γ of the likelihood; .99 in the authors' code.
    """

    alpha: float = 0.001
    gamma: float = 0.99

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"before_logits"})

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and self.gamma >= 0):
            raise OptionError("scrub: alpha and gamma must not be negative")

    @property
    def statistic(self) -> TokenStatistic:
        """Both terms of each token, weighted."""

        def both(logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
            divergence = kl_divergence(logits, target, reference)
            return self.alpha * divergence - self.gamma * log_prob(logits, target)

        return both

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum over all tokens."""
        return view.values.sum()
