"""Answer as a teacher would, and find each true token as likely as the teacher does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.errors import OptionError
from unlearn.losses._view import Need, TokenView, Unit
from unlearn.losses.kl import kl_divergence
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["MatchTeacher"]


@dataclass(frozen=True)
class MatchTeacher:
    """Mean over target tokens of κ·KL(q ‖ p) + λ·huber(log p_y − log q_y), q the sharpened teacher.

    With z the teacher's logits, log q = log softmax(s·z), and huber(x) = x²/2 for |x| ≤ 1, else
    |x| − 1/2.

    This project's own. Both terms are needed. The divergence alone fixes what the model says
    instead, but hardly sees what is left on the true token: with q_y = e⁻⁷, a model that gives the
    token e⁻³ pays .05 nats for it, and an attacker who compares losses finds every record. The
    Huber term alone puts the true token where it belongs, but leaves it the first choice too often.
    The loss is bounded below by 0, reached at the teacher: there is nothing to overshoot.

    Attributes:
        divergence: weight κ of the divergence; .3, from measurements on TOFU (docs/methods.md).
        level: weight λ of the Huber term; .1, from the same.
        sharpness: factor s on the teacher's logits; 1 leaves them as they are.
    """

    divergence: float = 0.3
    level: float = 0.1
    sharpness: float = 1.0

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"teacher_logits"})

    def __post_init__(self) -> None:
        for name in ("divergence", "level"):
            if not getattr(self, name) >= 0:
                raise OptionError(f"match_teacher: {name} must not be negative")
        if not self.divergence + self.level > 0:
            raise OptionError("match_teacher: divergence and level are both 0: nothing to match")
        if not self.sharpness > 0:
            raise OptionError(f"match_teacher: sharpness must be positive, not {self.sharpness}")

    @property
    def statistic(self) -> TokenStatistic:
        """Both terms of each token, weighted."""

        def matched(logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
            assert reference is not None
            teacher = reference * self.sharpness
            off = log_prob(logits, target) - log_prob(teacher, target)
            size = off.abs()
            huber = torch.where(size <= 1, off * off / 2, size - 0.5)
            return self.divergence * kl_divergence(logits, target, teacher) + self.level * huber

        return matched

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum over all tokens."""
        return view.values.sum()
