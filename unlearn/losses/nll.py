"""Negative log-likelihood: the ordinary training loss, and the plainest retain term.

As a retain term it has no end: it drives the loss of records to keep far below what it was, until
they come out. `FlooredNLL` brings each of them back to its old loss, and no further.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["NLL", "FlooredNLL"]

_ROUNDING = 1e-3  # nats a token by which a record's loss differs when it is computed again, at most


@dataclass(frozen=True)
class NLL:
    """Mean over target tokens of −log p_t.

    Formula: L = −(1/N) Σ_t log p_t, N the number of target tokens.
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __call__(self, view: TokenView) -> Tensor:
        """Return −Σ_t log p_t."""
        return -view.values.sum()


@dataclass(frozen=True)
class FlooredNLL(NLL):
    """By how much records are worse than before, a mean over target tokens.

    Formula: L = (1/N) Σ_r max(0, l_r − l_r,before − ε·T_r), l_r = −Σ_t log p_t the summed loss of
    record r of T_r target tokens, N those of all, ε = .001 nats a token. A record at or below its
    old loss has no gradient; above it the gradient is that of `NLL`. With ε, rounding alone gives
    none either: before the first step every record lies at its old loss.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference_log_probs"})

    def __call__(self, view: TokenView) -> Tensor:
        """Return Σ_r max(0, Σ_t log p_before − Σ_t log p − ε·T_r)."""
        assert view.reference_log_probs is not None
        rise = view.reference_log_probs - view.per_record_sum()
        return (rise - _ROUNDING * view.record.bincount(minlength=view.records)).relu().sum()
