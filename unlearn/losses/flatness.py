"""Flatness: bring the largest logit down to the mean of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic

__all__ = ["Flatness", "squared_logit_margin"]


def squared_logit_margin(logits: Tensor, target: Tensor, reference: Tensor | None = None) -> Tensor:
    """Return (max_v z_v − mean_v z_v)² of each row, over the entries with a finite logit.

    Args:
        logits: the model's, float32 [n, V].
        target: not used.
        reference: not used.

    Returns:
        float32 [n], 0 where all finite logits are equal.
    """
    possible = ~logits.detach().isneginf()
    mean = torch.where(possible, logits, 0.0).sum(-1) / possible.sum(-1)
    return (logits.amax(-1) - mean).square()


@dataclass(frozen=True)
class Flatness:
    """Mean over target tokens of (max z − mean z)².

    The forget term of primal–dual unlearning (2506.05314): convex in the logits, 0 at the uniform
    distribution, with a constraint on the retain loss beside it.
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(squared_logit_margin)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the squared margins."""
        return view.values.sum()
