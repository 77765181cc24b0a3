"""Gradient ascent: climb the loss of the records to forget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["GradAscent"]


@dataclass(frozen=True)
class GradAscent:
    """The negative of the training loss, mean over target tokens.

    Formula: L = (1/N) Σ_t log p_t (TOFU, 2401.06121, section 4.1, where it is a baseline; after
    Jang et al., 2210.01504). Unbounded below: without a stop rule it destroys the model.
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __call__(self, view: TokenView) -> Tensor:
        """Return Σ_t log p_t."""
        return view.values.sum()
