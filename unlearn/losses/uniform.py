"""Uniform: know nothing about the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic

__all__ = ["Uniform", "divergence_from_uniform"]


def divergence_from_uniform(
    logits: Tensor, target: Tensor, reference: Tensor | None = None
) -> Tensor:
    """Return KL(u ‖ p) = logsumexp(z) − mean(z) − log V of each row.

    u is uniform over the V entries whose logit is finite: entries that a model rules out for good
    (padding of the vocabulary) would make every divergence infinite.

    Args:
        logits: the model's, float32 [n, V].
        target: not used.
        reference: not used.

    Returns:
        float32 [n], in nats, at least 0.
    """
    possible = ~logits.detach().isneginf()
    count = possible.sum(-1)
    mean = torch.where(possible, logits, 0.0).sum(-1) / count
    return logits.logsumexp(-1) - mean - count.to(logits.dtype).log()


@dataclass(frozen=True)
class Uniform:
    """Mean over target tokens of KL(uniform ‖ model).

    Formula: L = (1/N) Σ_t KL(u ‖ p_t). Least where every token is equally likely: that is less
    than a model knows which never saw the records, so without a stop rule it forgets too much.
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(divergence_from_uniform)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the divergences."""
        return view.values.sum()
