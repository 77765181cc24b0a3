"""Jensen–Shannon divergence: between two models, and to a one-hot answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["JSFromBefore", "JensUn", "js_divergence", "js_from_one_hot"]


def js_divergence(logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
    """Return ½ KL(p ‖ m) + ½ KL(p_ref ‖ m), m = (p + p_ref)/2, of each row.

    Entries with probability 0 contribute 0; the value lies in [0, log 2].

    Args:
        logits: the model's, float32 [n, V].
        target: not used.
        reference: the reference's, float32 [n, V].

    Returns:
        float32 [n], in nats.
    """
    assert reference is not None
    log_p, log_q = logits.log_softmax(-1), reference.log_softmax(-1)
    # where both are 0 the gradient of logaddexp is NaN; `_part` leaves those entries out
    both = log_p.detach().isneginf() & log_q.detach().isneginf()
    log_m = torch.logaddexp(log_p.masked_fill(both, 0.0), log_q.masked_fill(both, 0.0)) - math.log(
        2
    )
    return (_part(log_p, log_m) + _part(log_q, log_m)) / 2


def _part(log_p: Tensor, log_m: Tensor) -> Tensor:
    """Return Σ_v p (log p − log m), with 0·log 0 = 0 in value and gradient."""
    none = log_p.detach().isneginf()
    log_ratio = log_p.masked_fill(none, 0.0) - log_m.masked_fill(none, 0.0)
    return (log_p.exp() * log_ratio).sum(-1)


def js_from_one_hot(log_p: Tensor) -> Tensor:
    """Return the Jensen–Shannon divergence of p from the one-hot of a token, given log p of it.

    With m = (p + e_y)/2 all terms but y's collapse:
    JS = ½[p log p − (1 + p) log((1 + p)/2) + (1 − p) log 2], log 2 at p = 0 and 0 at p = 1.

    Args:
        log_p: log-probability of the token, float32 [N].

    Returns:
        float32 [N], in nats, in [0, log 2].
    """
    finite = log_p.clamp(min=-80.0)  # p log p vanishes before this; −∞ would make 0·∞
    p = finite.exp()
    return (p * finite - (1 + p) * torch.log1p(p) + 2 * math.log(2)) / 2


@dataclass(frozen=True)
class JSFromBefore:
    """Mean over target tokens of JS(before, model): stay as you were, with a bounded pull.

    The retain term of JensUn (2509.02820).
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"before_logits"})
    statistic: ClassVar[TokenStatistic] = staticmethod(js_divergence)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the divergences."""
        return view.values.sum()


@dataclass(frozen=True)
class JensUn:
    """Mean over the tokens of another answer of JS(one-hot of the token, model).

    Formula: L = (1/N) Σ_t JS(p_t, e_{y'_t}), y' the answer to give instead (2509.02820, forget
    term; the paper uses one refusal for all). In [0, log 2], and its gradient is bounded too.
    """

    unit: ClassVar[Unit] = "alternate_tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"alternates"})
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum over the tokens of the other answers."""
        assert view.alternate is not None
        return js_from_one_hot(view.alternate.values).sum()
