"""Direct preference optimisation: another answer is preferred to the record's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from unlearn.errors import OptionError
from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["DPO"]


@dataclass(frozen=True)
class DPO:
    """Mean over records of (2/β)·softplus(−β·(Δ(y') − Δ(y))), Δ = log π − log π_ref, summed.

    Formula: L = −(2/β) E[log σ(β(log π(y'|x)/π_ref(y'|x) − log π(y|x)/π_ref(y|x)))], y' the answer
    to give instead (2305.18290, equation 7, times 2/β: with that factor, dropping y' gives NPO,
    2404.05868; the paper of NPO writes 1/β, which is the same at half the weight).

    Attributes:
        beta: inverse temperature β; 0.1 as for NPO (2404.05868, section 5).
    """

    beta: float = 0.1

    unit: ClassVar[Unit] = "records"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference_log_probs", "alternates"})
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise OptionError(f"dpo: beta must be positive, not {self.beta}")

    def __call__(self, view: TokenView) -> Tensor:
        """Return (2/β) Σ_r softplus(−β·(Δ(y'_r) − Δ(y_r)))."""
        other = view.alternate
        assert other is not None
        assert view.reference_log_probs is not None
        assert other.reference_log_probs is not None
        lost = view.per_record_sum() - view.reference_log_probs
        won = other.per_record_sum() - other.reference_log_probs
        return (2 / self.beta) * softplus(-self.beta * (won - lost)).sum()
