"""FLAT: widen the f-divergence between another answer and the record's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["FLAT"]


@dataclass(frozen=True)
class FLAT:
    """Mean over records of −P(y') + exp(P(y) − 1), P an answer's mean token probability.

    Formula: L = −g*(P(x, y')) + f*(g*(P(x, y))), P(x, y) = (1/|y|) Σ_t p(y_t), y' a template answer
    (2410.11143, equation 5), with the paper's pair for the Kullback–Leibler divergence:
    g*(v) = v, f*(u) = exp(u − 1). Bounded: it lies in [e⁻¹ − 1, 1].
    """

    unit: ClassVar[Unit] = "records"
    needs: ClassVar[frozenset[Need]] = frozenset({"alternates"})
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __call__(self, view: TokenView) -> Tensor:
        """Return Σ_r exp(P(y_r) − 1) − P(y'_r)."""
        assert view.alternate is not None
        return (torch.exp(_mean_probability(view) - 1) - _mean_probability(view.alternate)).sum()


def _mean_probability(view: TokenView) -> Tensor:
    """Return each record's mean token probability, [R]."""
    sums = view.values.new_zeros(view.records).index_add(0, view.record, view.values.exp())
    return sums / view.record.bincount(minlength=view.records)
