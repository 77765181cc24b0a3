"""SimNPO: negative preference optimisation without a reference, normalised by length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from unlearn.errors import OptionError
from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["SimNPO"]


@dataclass(frozen=True)
class SimNPO:
    """Mean over records of (2/β)·softplus(−(β·l̄ − γ)), l̄ the record's mean token loss.

    Formula: L = −(2/β) E[log σ(−(β/|y|) log π(y|x) − γ)] (2410.07163, equation 4).

    Attributes:
        beta: inverse temperature β; 2.5 is the paper's choice for TOFU forget05 (4.5 for forget10).
        gamma: reward margin γ; 0 in the paper's TOFU experiments.
    """

    beta: float = 2.5
    gamma: float = 0.0

    unit: ClassVar[Unit] = "records"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise OptionError(f"simnpo: beta must be positive, not {self.beta}")

    def __call__(self, view: TokenView) -> Tensor:
        """Return (2/β) Σ_r softplus(−(β·l̄_r − γ))."""
        mean_loss = -view.per_record_mean()
        return (2 / self.beta) * softplus(-(self.beta * mean_loss - self.gamma)).sum()
