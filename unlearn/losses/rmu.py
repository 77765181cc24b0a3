"""RMU: send the hidden states of what is to be forgotten in a meaningless direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn.errors import OptionError
from unlearn.losses._view import Need, TokenView, Unit
from unlearn.model.scoring import TokenStatistic, log_prob

__all__ = ["HiddenMSE", "Misdirect", "MisdirectByNorm", "random_direction"]


def random_direction(size: int, seed: int, like: Tensor) -> Tensor:
    """Return a random unit vector: uniform numbers in [0, 1) divided by their norm, as in RMU.

    A function of its arguments alone, so that nothing needs to be kept for a resumed run or for
    another process.

    Args:
        size: H.
        seed: which vector.
        like: gives device and dtype.

    Returns:
        [H].
    """
    u = torch.rand(size, generator=torch.Generator().manual_seed(int(seed)))
    unit: Tensor = u / torch.linalg.vector_norm(u)
    return unit.to(like)


@dataclass(frozen=True)
class Misdirect:
    """Mean over target tokens of (1/H)·‖h − c·u‖², h a block's output, u a random unit vector.

    The forget term of RMU (2403.03218, equation 1; there over all tokens of a text, here over the
    target tokens).

    Attributes:
        layer: the block; 7 of 32 in the paper. −1 takes the same share of the model's depth.
        steering: c, the length aimed at; 6.5 in the paper (7B models).
        direction: seed of u.
    """

    layer: int = -1
    steering: float = 6.5
    direction: int = 0

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __post_init__(self) -> None:
        if not self.steering >= 0:
            raise OptionError(f"rmu: steering must not be negative, not {self.steering}")

    def hidden_statistic(self, hidden: Tensor, reference: Tensor | None) -> Tensor:
        """Return the mean squared distance of each token's hidden state from c·u, [n]."""
        u = random_direction(hidden.shape[-1], self.direction, hidden)
        return (hidden - self.steering * u).square().mean(-1)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum over all tokens."""
        return view.values.sum()


@dataclass(frozen=True)
class MisdirectByNorm:
    """Mean over target tokens of (1/H)·‖h − s·‖h_before‖·u‖²: RMU with a length that fits.

    The forget term of adaptive RMU (2408.06223): the length aimed at is a multiple of the token's
    own hidden norm before unlearning, so that one value serves every block and model.

    Attributes:
        layer: the block; −1 takes 7/32 of the model's depth.
        scale: s; 5 in the paper.
        direction: seed of u.
    """

    layer: int = -1
    scale: float = 5.0
    direction: int = 0

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"before_hidden"})
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise OptionError(f"adaptive_rmu: scale must not be negative, not {self.scale}")

    def hidden_statistic(self, hidden: Tensor, reference: Tensor | None) -> Tensor:
        """Return the mean squared distance of each token's hidden state from s·‖h_before‖·u."""
        assert reference is not None
        u = random_direction(hidden.shape[-1], self.direction, hidden)
        length: Tensor = self.scale * torch.linalg.vector_norm(reference, dim=-1, keepdim=True)
        aim: Tensor = length * u
        return (hidden - aim).square().mean(-1)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum over all tokens."""
        return view.values.sum()


@dataclass(frozen=True)
class HiddenMSE:
    """Mean over target tokens of (1/H)·‖h − h_before‖²: think as you did.

    The retain term of RMU (2403.03218, equation 2); its weight there, α = 1200, is the method's
    `retain_weight`.

    Attributes:
        layer: the block; −1 takes 7/32 of the model's depth.
    """

    layer: int = -1

    unit: ClassVar[Unit] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset({"before_hidden"})
    statistic: ClassVar[TokenStatistic] = staticmethod(log_prob)

    def hidden_statistic(self, hidden: Tensor, reference: Tensor | None) -> Tensor:
        """Return the mean squared change of each token's hidden state, [n]."""
        assert reference is not None
        return (hidden - reference).square().mean(-1)

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum over all tokens."""
        return view.values.sum()
