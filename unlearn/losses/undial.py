"""UNDIAL: learn one's own old answer with the true token's logit lowered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.errors import OptionError
from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic

__all__ = ["UNDIAL"]


@dataclass(frozen=True)
class UNDIAL:
    """Mean over target tokens of the cross-entropy to softmax(z_before − β·onehot(y)).

    Formula: L = (1/N) Σ_t CE(softmax(z_before,t − β e_y), softmax(z_t)) (2402.10052, equation 4).
    β = 0 is distillation from the model before. The teacher is fixed, so there is a minimum to
    reach; how deep it lies depends on how sure the model was: log p_y falls by at most β.

    Attributes:
        beta: how far the true token's logit is lowered, β; 10, the middle of the paper's 3, 10, 30.
    """

    beta: float = 10.0

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"before_logits"})

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise OptionError(f"undial: beta must not be negative, not {self.beta}")

    @property
    def statistic(self) -> TokenStatistic:
        """Cross-entropy of each token to the adjusted teacher."""

        def adjusted(logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
            assert reference is not None
            lowered = torch.full_like(target, -1, dtype=reference.dtype)[..., None] * self.beta
            teacher = reference.scatter_add(-1, target[..., None], lowered).softmax(-1)
            return -torch.where(teacher > 0, teacher * logits.log_softmax(-1), 0.0).sum(-1)

        return adjusted

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the cross-entropies."""
        return view.values.sum()
