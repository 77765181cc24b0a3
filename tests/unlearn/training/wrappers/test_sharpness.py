"""The sharpness-aware perturbation: the right way, the right distance, and back bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlearn.training.wrappers.sharpness import perturbed
from unlearn.training.wrappers.step import step_gradient


def weights(*values: float) -> list[nn.Parameter]:
    """One parameter of one number each, so that norms over all of them together matter."""
    return [nn.Parameter(torch.tensor([v])) for v in values]


def test_the_weights_move_up_the_gradient_by_rho() -> None:
    # g = (3, 4), ‖g‖ = 5 over both parameters: δ = 0.5 · (0.6, 0.8)
    theta = weights(1.0, 2.0)
    with perturbed(theta, [torch.tensor([3.0]), torch.tensor([4.0])], 0.5):
        assert [p.item() for p in theta] == pytest.approx([1.3, 2.4])
    assert [p.item() for p in theta] == [1.0, 2.0]


def test_the_perturbed_loss_is_the_larger_one() -> None:
    theta = weights(0.7, -1.2)
    loss = sum((i + 1) * (p**3).sum() for i, p in enumerate(theta))
    assert isinstance(loss, torch.Tensor)
    gradient = torch.autograd.grad(loss, theta)
    before = float(loss.detach())
    with perturbed(theta, gradient, 0.1), torch.no_grad():
        there = float(sum((i + 1) * (p**3).sum() for i, p in enumerate(theta)))
    # to first order by ρ·‖g‖, to second by the curvature, which is small here
    rise = 0.1 * float(torch.cat(gradient).norm())
    assert there - before == pytest.approx(rise, rel=0.1)


def test_weights_come_back_bit_for_bit_where_subtracting_would_not() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = [nn.Parameter(torch.randn(1000, generator=generator))]
    before = theta[0].detach().clone()
    gradient = [torch.randn(1000, generator=generator)]
    delta = 0.3 * gradient[0] / gradient[0].norm()
    assert not torch.equal(before + delta - delta, before)
    with pytest.raises(RuntimeError, match="in between"), perturbed(theta, gradient, 0.3):
        assert not torch.equal(theta[0], before)
        raise RuntimeError("in between")
    assert torch.equal(theta[0], before)


def test_without_a_gradient_the_weights_stay() -> None:
    theta = weights(1.0, 2.0)
    with perturbed(theta, [torch.zeros(1), None], 0.5):
        assert [p.item() for p in theta] == [1.0, 2.0]
    with perturbed(theta, [torch.ones(1), None], 0.5):
        assert [p.item() for p in theta] == [1.5, 2.0]


def test_a_step_on_quadratics_in_closed_form() -> None:
    # L_f = ½·a·(θ − c)², L_r = ½·b·θ²; g_f(θ) = a(θ − c), so with δ = ρ·sign(g_f):
    # a(θ + ρ·sign − c) + λ·b·θ, the retain part at θ itself
    a, b, c, rho, weight = 2.0, 3.0, 1.0, 0.25, 0.5
    for start, sign in ((4.0, 1.0), (-4.0, -1.0)):
        theta = weights(start)
        found = step_gradient(
            theta,
            lambda theta=theta: [a * (theta[0].detach() - c)],  # type: ignore[misc]
            lambda theta=theta: [b * theta[0].detach()],  # type: ignore[misc]
            weight,
            rho=rho,
        )
        assert found[0] is not None
        assert found[0].item() == pytest.approx(a * (start + sign * rho - c) + weight * b * start)
        assert theta[0].item() == start


def test_the_projection_looks_at_the_perturbed_forget_gradient() -> None:
    # at θ = 0.1 the forget gradient 2θ agrees with the retain gradient 1; at θ + ρ it is larger;
    # at θ = −0.1 the perturbed one is 2(−0.1 − 0.5) = −1.2: projected away whole
    for start, expected in ((0.1, 1.2 + 1.0), (-0.1, 0.0 + 1.0)):
        theta = weights(start)
        found = step_gradient(
            theta,
            lambda theta=theta: [2 * theta[0].detach()],  # type: ignore[misc]
            lambda: [torch.ones(1)],
            1.0,
            rho=0.5,
            project=True,
        )
        assert found[0] is not None
        assert found[0].item() == pytest.approx(expected)
