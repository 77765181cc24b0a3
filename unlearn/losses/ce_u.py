"""CE-U: learn what the model would have said if the true token were impossible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic

__all__ = ["CEU", "cross_entropy_without_target"]


def cross_entropy_without_target(
    logits: Tensor, target: Tensor, reference: Tensor | None = None
) -> Tensor:
    """Return −Σ_v q_v log p_v, q = sg(softmax of the logits with z_y = −∞).

    Entries with q = 0 contribute 0, also where p = 0. A distribution that has only the true token
    leaves nothing to learn instead: its value and its gradient are 0.

    Args:
        logits: the model's, float32 [n, V].
        target: int64 [n].
        reference: not used.

    Returns:
        float32 [n], in nats.
    """
    others = logits.detach().scatter(-1, target[..., None], -torch.inf)
    alone = others.isneginf().all(-1, keepdim=True)
    q = others.masked_fill(alone, 0.0).softmax(-1).masked_fill(alone, 0.0)
    return -torch.where(q > 0, q * logits.log_softmax(-1), 0.0).sum(-1)


@dataclass(frozen=True)
class CEU:
    """Mean over target tokens of the cross-entropy to the model without the true token.

    Formula: L = (1/N) Σ_t CE(sg(softmax(z̃_t)), softmax(z_t)), z̃ = z with z_y = −∞ (2503.01224,
    equation 6). Its gradient in z_y is p_y, in z_v it is p_v − q_v: it dies out with p_y, and the
    order of the other tokens stays. The paper's variant that skips each answer's first token is
    not offered: on answers of one token it is the mean of nothing.
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(cross_entropy_without_target)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the cross-entropies."""
        return view.values.sum()
