"""Muon: orthogonal steps of AdamW's size, for matrices only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlearn.errors import OptionError
from unlearn.training.optimizers import all_matrices, muon
from unlearn.training.options import TrainingOptions


class _Factors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.ModuleDict(
            {
                "lora_A": nn.ModuleDict({"default": nn.Linear(64, 8, bias=False)}),
                "lora_B": nn.ModuleDict({"default": nn.Linear(8, 64, bias=False)}),
            }
        )
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def factors(self) -> tuple[nn.Parameter, nn.Parameter]:
        a, b = self.parameters()
        return a, b


def test_a_step_goes_equally_far_in_every_direction_and_downhill() -> None:
    model = _Factors()
    a, b = model.factors()
    optimizer = muon(model, TrainingOptions(learning_rate=0.01, momentum=0.0, optimizer="muon"))
    old = [p.detach().clone() for p in (a, b)]
    for p in (a, b):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 7
    optimizer.step()
    moves = [p.detach() - o for p, o in zip((a, b), old, strict=True)]
    for move, p, factor in zip(moves, (a, b), (1.0, 2.0), strict=True):
        assert p.grad is not None
        assert float((move * p.grad).sum()) < 0
        # 0.2·√max(8, 64)·η times an orthogonal matrix; five Newton–Schulz steps leave the singular
        # values within a third of 1
        singular = torch.linalg.svdvals(move) / (factor * 0.01 * 0.2 * 8)
        assert bool(((singular > 0.6) & (singular < 1.35)).all())


def test_the_step_does_not_depend_on_the_size_of_the_gradient() -> None:
    moves = []
    for scale in (1.0, 1e-3):
        model = _Factors()
        a, _ = model.factors()
        optimizer = muon(model, TrainingOptions(learning_rate=0.01, optimizer="muon"))
        old = a.detach().clone()
        a.grad = scale * torch.randn(a.shape, generator=torch.Generator().manual_seed(2))
        optimizer.step()
        moves.append(a.detach() - old)
    torch.testing.assert_close(moves[0], moves[1], rtol=0.05, atol=1e-3)


def test_vectors_are_refused() -> None:
    model = nn.Linear(4, 4)
    assert not all_matrices(model)
    with pytest.raises(OptionError, match="adamw"):
        muon(model, TrainingOptions(learning_rate=0.1, optimizer="muon"))
    model.bias.requires_grad_(False)
    assert all_matrices(model)
