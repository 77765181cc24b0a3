"""Negative log-likelihood: the ordinary training loss, and the plainest retain term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["NLL"]


@dataclass(frozen=True)
class NLL:
    """Mean over target tokens of −log p_t.

    Formula: L = −(1/N) Σ_t log p_t, N the number of target tokens.
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __call__(self, view: TokenView) -> Tensor:
        """Return −Σ_t log p_t."""
        return -view.values.sum()
