"""Inverted hinge: push the true token just below the runner-up, and no further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic

__all__ = ["InvertedHinge", "probability_margin"]


def probability_margin(logits: Tensor, target: Tensor, reference: Tensor | None = None) -> Tensor:
    """Return 1 + p_y − max_{v ≠ y} p_v of each row, in [0, 2]; float32 [n]."""
    p = logits.softmax(-1)
    index = target[..., None]
    return 1 + p.gather(-1, index)[..., 0] - p.scatter(-1, index, -1.0).amax(-1)


@dataclass(frozen=True)
class InvertedHinge:
    """Mean over target tokens of 1 + p_y − max_{v ≠ y} p_v.

    Formula: L = (1/N) Σ_t (1 + p_t,y − max_{v ≠ y} p_t,v) (LoKU, 2408.06621, equation 3). It lies
    in [0, 2] and moves two logits a token, the true one and the best other one, instead of raising
    the whole vocabulary as gradient ascent does.
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(probability_margin)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the margins."""
        return view.values.sum()
