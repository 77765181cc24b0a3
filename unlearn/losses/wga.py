"""Weighted gradient ascent: climb the loss where the model is sure, stop where it no longer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn.errors import OptionError
from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["WGA", "SatImp", "weighted_ascent"]


def weighted_ascent(log_p: Tensor, beta1: float, beta2: float) -> Tensor:
    """Return sg(p^β₁·(1 − p)^β₂)·log p of each token, 0 where p = 0.

    The weight is a constant for the gradient. A token with p = 0 has nothing left to forget: its
    value and its gradient are 0, the limit of p^β₁·log p for β₁ > 0.

    Args:
        log_p: log-probabilities of the target tokens, float32 [N].
        beta1: exponent of p.
        beta2: exponent of 1 − p.

    Returns:
        float32 [N].
    """
    impossible = log_p.detach().isneginf()
    p = log_p.detach().exp()
    weight = p**beta1 * (1 - p) ** beta2
    return weight * log_p.masked_fill(impossible, 0.0)


@dataclass(frozen=True)
class WGA:
    """Mean over target tokens of sg(p^β)·log p.

    Formula: L = (1/N) Σ_t sg(p_t^β) log p_t (2502.19301, equation 9). The weight vanishes as a
    token is forgotten, so that the ascent dies out by itself. β = 0 is gradient ascent.

    Attributes:
        beta: exponent β; 1, the value of the authors' code.
    """

    beta: float = 1.0

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise OptionError(f"wga: beta must not be negative, not {self.beta}")

    def __call__(self, view: TokenView) -> Tensor:
        """Return Σ_t sg(p_t^β) log p_t."""
        return weighted_ascent(view.values, self.beta, 0.0).sum()


@dataclass(frozen=True)
class SatImp:
    """Mean over target tokens of sg(p^β₁·(1 − p)^β₂)·log p.

    Formula: L = (1/N) Σ_t sg(p_t^β₁ (1 − p_t)^β₂) log p_t (2505.11953: p^β₁ asks how far a token
    is from being forgotten, "saturation"; (1 − p)^β₂ prefers the tokens that carry the record over
    those that any model finds certain, "importance"). β₂ = 0 is WGA.

    Attributes:
        beta1: exponent β₁ of p; 5 in the authors' code.
        beta2: exponent β₂ of 1 − p; 1 in the authors' code.
    """

    beta1: float = 5.0
    beta2: float = 1.0

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not getattr(self, name) >= 0:
                raise OptionError(f"satimp: {name} must not be negative")

    def __call__(self, view: TokenView) -> Tensor:
        """Return Σ_t sg(p_t^β₁ (1 − p_t)^β₂) log p_t."""
        return weighted_ascent(view.values, self.beta1, self.beta2).sum()
