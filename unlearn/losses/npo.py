"""Negative preference optimisation: gradient ascent that fades as a record is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from unlearn.errors import OptionError
from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["NPO"]


@dataclass(frozen=True)
class NPO:
    """Mean over records of (2/β)·softplus(β·(log π(y) − log π_ref(y))), summed log-probabilities.

    Formula: L = −(2/β) E[log σ(−β log(π(y|x)/π_ref(y|x)))] (2404.05868, equation 3). As β → 0 the
    gradient tends to that of the summed log-likelihood, which is gradient ascent; the value itself
    diverges. Each record's gradient is weighted by 2σ(β(log π − log π_ref)), 1 at the start.

    Attributes:
        beta: inverse temperature β; 0.1 as in the paper's experiments (section 5).
    """

    beta: float = 0.1

    unit: ClassVar[Unit] = "records"
    needs: ClassVar[frozenset[Need]] = frozenset({"reference_log_probs"})
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise OptionError(f"npo: beta must be positive, not {self.beta}")

    def __call__(self, view: TokenView) -> Tensor:
        """Return (2/β) Σ_r softplus(β·(log π − log π_ref))."""
        assert view.reference_log_probs is not None
        ratio = view.per_record_sum() - view.reference_log_probs
        return (2 / self.beta) * softplus(self.beta * ratio).sum()
