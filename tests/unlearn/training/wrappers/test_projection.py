"""Gradient projection by hand, and as the nearest gradient that spares the retain loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unlearn.training.wrappers._gradient import Gradient, accumulated, dot, reduced
from unlearn.training.wrappers.projection import rectified
from unlearn.training.wrappers.step import step_gradient


def flat(gradient: Gradient) -> Tensor:
    return torch.cat([g for g in gradient if g is not None])


def test_the_conflicting_part_is_taken_out() -> None:
    # ⟨(2, 1), (−1, 0)⟩ = −2, ‖r‖² = 1: (2, 1) + 2·(−1, 0) = (0, 1)
    assert flat(rectified([torch.tensor([2.0, 1.0])], [torch.tensor([-1.0, 0.0])])).tolist() == [
        0.0,
        1.0,
    ]
    # ⟨(1, −2), (1, 1)⟩ = −1, ‖r‖² = 2: (1, −2) + ½·(1, 1)
    assert flat(rectified([torch.tensor([1.0, -2.0])], [torch.tensor([1.0, 1.0])])).tolist() == [
        1.5,
        -1.5,
    ]


def test_without_conflict_nothing_changes() -> None:
    forget = [torch.tensor([2.0, 1.0])]
    for retain in ([1.0, 0.0], [-1.0, 2.0], [0.0, 0.0]):
        assert rectified(forget, [torch.tensor(retain)]) is forget


def test_straight_against_it_nothing_is_left() -> None:
    assert flat(rectified([torch.tensor([2.0, -4.0])], [torch.tensor([-1.0, 2.0])])).tolist() == [
        0.0,
        0.0,
    ]


def test_the_conflict_is_that_of_all_parameters_together() -> None:
    # −1 in the first and +3 in the second: no conflict; −1 and +0.5: one, ⟨⟩ = −0.5, ‖r‖² = 2
    retain = [torch.tensor([1.0]), torch.tensor([1.0])]
    agree = [torch.tensor([-1.0]), torch.tensor([3.0])]
    assert rectified(agree, retain) is agree
    found = rectified([torch.tensor([-1.0]), torch.tensor([0.5])], retain)
    assert flat(found).tolist() == [-0.75, 0.75]


def test_a_parameter_that_only_one_term_has() -> None:
    found = rectified(
        [torch.tensor([-1.0]), None, torch.tensor([5.0])],
        [torch.tensor([1.0]), torch.tensor([1.0]), None],
    )
    # ⟨⟩ = −1, ‖r‖² = 2
    assert flat(found).tolist() == [-0.5, 0.5, 5.0]


def test_it_is_the_nearest_gradient_that_does_not_raise_the_retain_loss() -> None:
    generator = torch.Generator().manual_seed(1)
    retain = torch.randn(6, generator=generator, dtype=torch.float64)
    forget = torch.randn(6, generator=generator, dtype=torch.float64) - retain
    found = flat(rectified([forget], [retain]))
    assert float(found @ retain) == pytest.approx(0, abs=1e-12)
    others = found + torch.randn(2000, 6, generator=generator, dtype=torch.float64)
    allowed = others[others @ retain >= 0]
    assert len(allowed) > 500
    assert bool(((allowed - forget).norm(dim=1) >= (found - forget).norm()).all())


def test_descent_along_the_result_spares_the_retain_loss() -> None:
    # L_r = ½‖θ‖² at θ = (1, 0): a wrong sign would double the harm instead of removing it
    theta, forget = torch.tensor([1.0, 0.0]), torch.tensor([-3.0, 1.0])
    step = flat(rectified([forget], [theta]))
    harm = (theta - 0.01 * forget).square().sum() - 1
    left = (theta - 0.01 * step).square().sum() - 1
    assert float(harm) > 0.05
    assert abs(float(left)) < 1e-3


def test_a_retain_weight_of_zero_leaves_the_projected_forget_gradient() -> None:
    parameter = [torch.nn.Parameter(torch.zeros(2))]
    for weight, expected in ((0.0, [0.0, 1.0]), (2.0, [-2.0, 1.0])):
        found = step_gradient(
            parameter,
            lambda: [torch.tensor([2.0, 1.0])],
            lambda: [torch.tensor([-1.0, 0.0])],
            weight,
            project=True,
        )
        assert flat(found).tolist() == expected


def test_gradients_add_up_over_batches_and_processes() -> None:
    parts = [[torch.tensor([1.0]), None, None], [torch.tensor([2.0]), torch.tensor([3.0]), None]]
    total = accumulated(parts, 3)
    assert [None if g is None else g.item() for g in total] == [3.0, 3.0, None]
    assert dot(total, total) == 18.0
    like = [torch.zeros(1), torch.zeros(1), torch.zeros(1)]
    # two processes with the same part: everything doubles, what neither has stays absent
    both = reduced(total, like, lambda vector: 2 * vector)
    assert [None if g is None else g.item() for g in both] == [6.0, 6.0, None]
    assert accumulated([], 2) == [None, None]
