"""Kullback–Leibler divergence from or to a reference distribution, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic

__all__ = ["KLFromBase", "KLFromBefore", "KLToBefore", "kl_divergence"]


def kl_divergence(logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
    """Return KL(p_ref ‖ p) = Σ_v p_ref,v (log p_ref,v − log p_v) of each row.

    Entries with p_ref = 0 contribute 0; where p = 0 and p_ref > 0 the divergence is +∞.

    Args:
        logits: the model's, float32 [n, V].
        target: not used.
        reference: the reference's, float32 [n, V].

    Returns:
        float32 [n], in nats.
    """
    assert reference is not None
    log_q = reference.log_softmax(-1)
    log_p = logits.log_softmax(-1)
    # where p_ref = 0 both terms are cut, not only the value: 0·∞ would poison the gradient
    none = log_q.detach().isneginf()
    ratio = log_q.masked_fill(none, 0.0) - log_p.masked_fill(none, 0.0)
    return (log_q.exp() * ratio).sum(-1)


@dataclass(frozen=True)
class KLFromBefore:
    """Mean over target tokens of KL(before ‖ model): stay as you were.

    The retain term of "KL minimisation" (TOFU, 2401.06121, section 4.1; there the sum runs over
    every position of the retain records, here over their target tokens).
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"before_logits"})
    statistic: ClassVar[TokenStatistic] = staticmethod(kl_divergence)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the divergences."""
        return view.values.sum()


@dataclass(frozen=True)
class KLToBefore:
    """Mean over target tokens of KL(model ‖ before): believe nothing that you did not before.

    The other direction of `KLFromBefore`. It forbids new answers instead of asking for all the old
    ones; where the model before ruled a token out (logit −∞) and the model does not, it is +∞.
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"before_logits"})

    @property
    def statistic(self) -> TokenStatistic:
        """KL(model ‖ before) of each token."""

        def reverse(logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
            assert reference is not None
            return kl_divergence(reference, target, logits)

        return reverse

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the divergences."""
        return view.values.sum()


@dataclass(frozen=True)
class KLFromBase:
    """Mean over target tokens of KL(base ‖ model): answer as the base without adapter would.

    For an adapter the base is had for free by switching the adapter off. Bounded below by 0, so it
    cannot collapse the model. It fails where the base lacks the format that fine-tuning taught.
    """

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"base_logits"})
    statistic: ClassVar[TokenStatistic] = staticmethod(kl_divergence)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the divergences."""
        return view.values.sum()
