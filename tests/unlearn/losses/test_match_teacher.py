from __future__ import annotations

import math

import pytest
import torch

from unlearn.errors import OptionError
from unlearn.losses import MatchTeacher, TokenView


def values(loss: MatchTeacher, p: list[float], q: list[float], y: int = 0) -> float:
    logits, teacher = torch.tensor([p]).double().log(), torch.tensor([q]).double().log()
    return loss.statistic(logits, torch.tensor([y]), teacher).item()


def test_worked_by_hand() -> None:
    # KL(q‖p) = ½ log(½ / ¼) + ½ log(½ / ¾); log p_y − log q_y = −log 2, within the parabola
    divergence = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    found = values(MatchTeacher(divergence=2.0, level=3.0), [0.25, 0.75], [0.5, 0.5])
    assert found == pytest.approx(2 * divergence + 3 * math.log(2) ** 2 / 2)
    # outside: |log .9 − log .1| − ½
    far = values(MatchTeacher(divergence=0.0, level=1.0), [0.9, 0.1], [0.1, 0.9])
    assert far == pytest.approx(math.log(9) - 0.5)
    assert values(MatchTeacher(), [0.3, 0.7], [0.3, 0.7]) == pytest.approx(0, abs=1e-12)


def test_sharpness_is_the_inverse_of_temperature() -> None:
    # q² renormalised: (1/9, 4/9 … ) of (1/3, 2/3) is (1/5, 4/5)
    sharp = MatchTeacher(divergence=0.0, level=1.0, sharpness=2.0)
    assert values(sharp, [0.2, 0.8], [1 / 3, 2 / 3]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("p", [0.05, 0.9])
def test_descending_it_moves_the_true_token_towards_the_teacher(p: float) -> None:
    """From either side: a record known too well and one pushed too far."""
    logits = torch.tensor([[p, 1 - p]]).double().log().requires_grad_()
    teacher = torch.tensor([[0.4, 0.6]]).double().log()
    loss = MatchTeacher()
    loss.statistic(logits, torch.tensor([0]), teacher).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[0, 0] > 0) == (p > 0.4)


@pytest.mark.parametrize("loss", [MatchTeacher(), MatchTeacher(1.0, 2.0, 2.5)])
def test_gradient_matches_finite_differences(loss: MatchTeacher) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(3, 5, dtype=torch.float64, generator=generator) * 2

    def value(logits: torch.Tensor) -> torch.Tensor:
        found = loss.statistic(logits, torch.tensor([0, 2, 4]), teacher)
        return loss(TokenView(found, torch.tensor([0, 0, 1]), 2))

    logits = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(value, logits.requires_grad_())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": -1.0}, "level must not be negative"),
        ({"divergence": 0.0, "level": 0.0}, "nothing to match"),
        ({"sharpness": 0.0}, "sharpness must be positive"),
    ],
)
def test_refuses_what_makes_no_loss(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MatchTeacher(**options)
