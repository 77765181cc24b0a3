"""The losses on single tokens: values by hand, gradients, bounds, limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unlearn.errors import OptionError
from unlearn.losses import (
    CEU,
    FORGET_LOSSES,
    RETAIN_LOSSES,
    UNDIAL,
    WGA,
    AwayFromBefore,
    HiddenLoss,
    InvertedHinge,
    JSFromBefore,
    KLFromBefore,
    KLToBefore,
    Loss,
    SatImp,
    StayAndLearn,
    TokenView,
    Uniform,
    js_divergence,
)
from unlearn.losses.ce_u import cross_entropy_without_target
from unlearn.losses.flatness import squared_logit_margin
from unlearn.losses.inverted_hinge import probability_margin
from unlearn.losses.uniform import divergence_from_uniform
from unlearn.model.scoring import log_prob

LOG2 = math.log(2)
ALL = {**FORGET_LOSSES, **RETAIN_LOSSES}
# Those that see one token at a time, and nothing but it and a reference.
TOKEN_LOSSES = sorted(
    name
    for name, kind in ALL.items()
    if kind.unit == "tokens" and not isinstance(kind(), HiddenLoss)
)


def logits_of(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def value(loss: Loss, p: list[float], q: list[float] | None = None, y: int = 0) -> float:
    """A loss on one record of one token with model p, reference q, and target y."""
    reference = None if q is None else logits_of(q)
    found = loss.statistic(logits_of(p), torch.tensor([y]), reference)
    return loss(TokenView(found, torch.zeros(1, dtype=torch.long), 1)).item()


def test_wga_by_hand() -> None:
    assert value(WGA(beta=2.0), [0.25, 0.75]) == pytest.approx(0.25**2 * math.log(0.25))
    assert value(WGA(beta=0.0), [0.25, 0.75]) == pytest.approx(math.log(0.25))  # gradient ascent


def test_satimp_by_hand() -> None:
    expected = 0.25**2 * 0.75**3 * math.log(0.25)
    assert value(SatImp(2.0, 3.0), [0.25, 0.75]) == pytest.approx(expected)
    assert value(SatImp(2.0, 0.0), [0.25, 0.75]) == pytest.approx(value(WGA(2.0), [0.25, 0.75]))


@pytest.mark.parametrize("loss", [WGA(), SatImp()])
def test_weights_are_constants_and_vanish_with_p(loss: WGA | SatImp) -> None:
    log_p = torch.tensor([math.log(0.3), -math.inf], dtype=torch.float64, requires_grad=True)
    total = loss(TokenView(log_p, torch.tensor([0, 0]), 1))
    total.backward()
    assert torch.isfinite(total)
    assert log_p.grad is not None
    beta1, beta2 = (loss.beta, 0.0) if isinstance(loss, WGA) else (loss.beta1, loss.beta2)
    assert log_p.grad.tolist() == pytest.approx([0.3**beta1 * 0.7**beta2, 0.0])


def test_ce_u_by_hand() -> None:
    # without token 0 the others are ¼ and ¾ of what is left: −¼ log .1 − ¾ log .3
    expected = -0.25 * math.log(0.1) - 0.75 * math.log(0.3)
    assert value(CEU(), [0.6, 0.1, 0.3]) == pytest.approx(expected)


def test_ce_u_gradient_is_p_minus_the_others() -> None:
    logits = logits_of([0.6, 0.1, 0.3]).requires_grad_()
    cross_entropy_without_target(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.6, 0.1 - 0.25, 0.3 - 0.75])


def test_ce_u_where_nothing_else_is_possible() -> None:
    logits = torch.tensor([[0.0, -math.inf]], dtype=torch.float64, requires_grad=True)
    found = cross_entropy_without_target(logits, torch.tensor([0]))
    found.sum().backward()
    assert found.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_undial_by_hand_and_its_limits() -> None:
    # q ∝ (½·e^(−log 2), ½) = (⅓, ⅔)
    expected = -(math.log(0.25) / 3 + 2 * math.log(0.75) / 3)
    assert value(UNDIAL(beta=LOG2), [0.25, 0.75], [0.5, 0.5]) == pytest.approx(expected)
    # β = 0 is distillation: the cross-entropy is KL plus the teacher's entropy
    p, q = [0.2, 0.8], [0.6, 0.4]
    entropy = -sum(x * math.log(x) for x in q)
    assert value(UNDIAL(beta=0.0), p, q) == pytest.approx(value(KLFromBefore(), p, q) + entropy)


def test_inverted_hinge_by_hand() -> None:
    assert value(InvertedHinge(), [0.6, 0.1, 0.3]) == pytest.approx(1 + 0.6 - 0.3)
    assert value(InvertedHinge(), [0.6, 0.1, 0.3], y=1) == pytest.approx(1 + 0.1 - 0.6)
    assert value(InvertedHinge(), [1.0, 0.0]) == pytest.approx(2)
    assert value(InvertedHinge(), [1.0, 0.0], y=1) == pytest.approx(0)


def test_uniform_by_hand() -> None:
    # KL(u‖p) = ½ log(½/¼) + ½ log(½/¾)
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert value(Uniform(), [0.25, 0.75]) == pytest.approx(expected)
    # entries that are ruled out for good do not count
    padded = torch.tensor([[math.log(0.25), math.log(0.75), -math.inf]])
    assert divergence_from_uniform(padded, torch.tensor([0])).item() == pytest.approx(expected)


def test_flatness_by_hand() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0], [1.0, 1.0, -math.inf]])
    found = squared_logit_margin(logits, torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([4.0, 0.0])


def test_js_by_hand_symmetric_and_bounded() -> None:
    p, q = [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]
    # m = (½, ¼, ¼): each side ½ log 1 + ½ log 2
    assert value(JSFromBefore(), p, q) == pytest.approx(LOG2 / 2)
    assert value(JSFromBefore(), q, p) == pytest.approx(LOG2 / 2)
    assert value(JSFromBefore(), [1.0, 0.0], [0.0, 1.0]) == pytest.approx(LOG2)
    assert value(JSFromBefore(), p, p) == pytest.approx(0)


def test_reverse_kl_is_the_other_direction() -> None:
    p, q = [0.2, 0.8], [0.6, 0.4]
    assert value(KLToBefore(), p, q) == pytest.approx(value(KLFromBefore(), q, p))
    assert value(KLToBefore(), p, q) != pytest.approx(value(KLFromBefore(), p, q))


def test_scrub_by_hand() -> None:
    p, q = [0.2, 0.8], [0.6, 0.4]
    kl = value(KLFromBefore(), p, q)
    assert value(AwayFromBefore(), p, q) == pytest.approx(-kl)
    assert value(StayAndLearn(2.0, 3.0), p, q) == pytest.approx(2 * kl - 3 * math.log(0.2))


def test_scrub_takes_no_first_step_by_itself() -> None:
    logits = logits_of([0.2, 0.8]).requires_grad_()
    loss = AwayFromBefore()
    loss.statistic(logits, torch.tensor([0]), logits.detach()).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_gradients_match_finite_differences(name: str) -> None:
    loss = ALL[name]()
    if name in {"wga", "satimp", "ce_u"}:
        pytest.skip("holds a weight or a target still, and so has no such gradient: see above")
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    target, record = torch.tensor([0, 2, 1, 4]), torch.tensor([0, 0, 0, 1])

    def total(logits: Tensor) -> Tensor:
        return loss(TokenView(loss.statistic(logits, target, reference), record, 2))

    logits = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(total, logits.requires_grad_())


# What lowers these on a record that is known lowers the true token's probability.
@pytest.mark.parametrize(
    "name",
    [
        "ce_u", "flatness", "grad_ascent", "inverted_hinge", "satimp", "undial", "uniform", "wga",
    ],
)  # fmt: skip
def test_descending_a_forget_loss_lowers_the_true_token(name: str) -> None:
    loss = FORGET_LOSSES[name]()
    logits = logits_of([0.9, 0.06, 0.04])
    reference = logits.clone()
    leaf = logits.clone().requires_grad_()
    loss.statistic(leaf, torch.tensor([0]), reference)
    values = loss.statistic(leaf, torch.tensor([0]), reference)
    loss(TokenView(values, torch.zeros(1, dtype=torch.long), 1)).backward()
    assert leaf.grad is not None
    after = logits - 0.05 * leaf.grad
    assert log_prob(after, torch.tensor([0])) < log_prob(logits, torch.tensor([0]))


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_impossible_tokens_neither_poison_value_nor_gradient(name: str) -> None:
    """A vocabulary is often padded: entries at −∞ in the model and in its reference."""
    loss = ALL[name]()
    logits = torch.tensor([[1.0, 0.0, -1.0, -math.inf]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.5, 0.5, -2.0, -math.inf]], dtype=torch.float64)
    found = loss.statistic(logits, torch.tensor([0]), reference)
    total = loss(TokenView(found, torch.zeros(1, dtype=torch.long), 1))
    total.backward()
    assert torch.isfinite(total)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    # and they change nothing
    short = loss.statistic(logits.detach()[:, :3], torch.tensor([0]), reference[:, :3])
    view = TokenView(short, torch.zeros(1, dtype=torch.long), 1)
    assert loss(view).item() == pytest.approx(total.item())


def test_js_is_at_most_log_2_wherever() -> None:
    generator = torch.Generator().manual_seed(4)
    logits, other = (torch.randn(200, 6, generator=generator) * 8 for _ in range(2))
    found = js_divergence(logits, torch.zeros(200, dtype=torch.long), other)
    assert found.min() >= -1e-6
    assert found.max() <= LOG2 + 1e-6


def test_probability_margin_ignores_the_order_of_the_others() -> None:
    logits = logits_of([0.5, 0.2, 0.3])
    a = probability_margin(logits, torch.tensor([0]))
    b = probability_margin(logits[:, [0, 2, 1]], torch.tensor([0]))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WGA(-1.0),
        lambda: SatImp(beta1=-1.0),
        lambda: SatImp(beta2=-1.0),
        lambda: UNDIAL(-1.0),
        lambda: StayAndLearn(alpha=-1.0),
    ],
)
def test_negative_constants_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(OptionError, match="negative"):
        make()
