"""Every loss against values worked by hand, finite differences, limits and invariances."""

from __future__ import annotations

import math

import pytest
import torch

from unlearn.errors import OptionError
from unlearn.losses import (
    FORGET_LOSSES,
    NLL,
    NPO,
    RETAIN_LOSSES,
    FlooredNLL,
    GradAscent,
    KLFromBase,
    KLFromBefore,
    SimNPO,
    TokenView,
    kl_divergence,
)
from unlearn.model.scoring import log_prob

# Two records: one of 2 tokens with p = 1/2, 1/4; one of 1 token with p = 1/8.
P = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64)
RECORD = torch.tensor([0, 0, 1])
LOG2 = math.log(2)


def view(log_p: torch.Tensor, reference: torch.Tensor | None = None) -> TokenView:
    return TokenView(log_p, RECORD, 2, reference)


def test_nll_by_hand() -> None:
    # −(log 1/2 + log 1/4 + log 1/8) = 6 log 2
    assert NLL()(view(P.log())).item() == pytest.approx(6 * LOG2)


def test_floored_nll_by_hand() -> None:
    # losses 3 log 2 each; the first was log 2 before, of 2 tokens; the second was worse before
    old = torch.tensor([-LOG2, -4 * LOG2], dtype=torch.float64)
    assert FlooredNLL()(view(P.log(), old)).item() == pytest.approx(2 * LOG2 - 2e-3)
    assert FlooredNLL()(view(P.log(), torch.full((2,), -4 * LOG2))).item() == 0


def test_a_record_at_or_below_its_old_loss_has_no_gradient_and_others_that_of_nll() -> None:
    same = -3 * LOG2
    for first, second in ((-LOG2, -4 * LOG2), (same, -LOG2), (same + 1e-5, same - 1e-5)):
        log_p, plain = P.log().requires_grad_(), P.log().requires_grad_()
        FlooredNLL()(view(log_p, torch.tensor([first, second]).double())).backward()
        NLL()(view(plain)).backward()
        assert log_p.grad is not None
        assert plain.grad is not None
        worse = torch.tensor([first > same + 1e-3, second > same + 1e-3])[RECORD]
        assert torch.equal(log_p.grad, torch.where(worse, plain.grad, 0.0))


def test_grad_ascent_is_the_negative_of_nll() -> None:
    assert GradAscent()(view(P.log())).item() == pytest.approx(-6 * LOG2)
    up = P.log().requires_grad_()
    GradAscent()(view(up)).backward()
    assert up.grad is not None
    assert (up.grad > 0).all()  # descending it lowers the log-probabilities


def test_npo_by_hand() -> None:
    # sums: −3 log 2 and −3 log 2; reference −3 log 2 and −4 log 2: ratios 0 and log 2
    reference = torch.tensor([-3 * LOG2, -4 * LOG2], dtype=torch.float64)
    beta = 0.5
    expected = (2 / beta) * (math.log(2) + math.log(1 + 2**beta))
    assert NPO(beta)(view(P.log(), reference)).item() == pytest.approx(expected)


def test_npo_gradient_is_the_weighted_gradient_of_ascent() -> None:
    log_p = P.log().requires_grad_()
    reference = torch.tensor([-1.0, -2.5], dtype=torch.float64)
    beta = 0.3
    NPO(beta)(view(log_p, reference)).backward()
    sums = torch.tensor([-3 * LOG2, -3 * LOG2], dtype=torch.float64)
    weight = 2 * torch.sigmoid(beta * (sums - reference))
    assert log_p.grad is not None
    torch.testing.assert_close(log_p.grad, weight[RECORD])


def test_npo_tends_to_summed_gradient_ascent_as_beta_vanishes() -> None:
    log_p = P.log().requires_grad_()
    NPO(1e-9)(view(log_p, torch.zeros(2, dtype=torch.float64))).backward()
    assert log_p.grad is not None
    torch.testing.assert_close(log_p.grad, torch.ones_like(P), rtol=1e-6, atol=0)


def test_simnpo_by_hand() -> None:
    # mean losses: 1.5 log 2 and 3 log 2; softplus(−(βl̄ − γ))
    beta, gamma = 2.0, 0.5
    expected = (2 / beta) * sum(
        math.log1p(math.exp(-(beta * mean * LOG2 - gamma))) for mean in (1.5, 3.0)
    )
    assert SimNPO(beta, gamma)(view(P.log())).item() == pytest.approx(expected)


def test_simnpo_falls_as_the_records_are_forgotten() -> None:
    better, worse = P.log(), P.log() - 1
    assert SimNPO()(view(worse)) < SimNPO()(view(better))
    assert NPO()(view(worse, torch.zeros(2))) < NPO()(view(better, torch.zeros(2)))


def test_kl_by_hand_and_direction() -> None:
    reference = torch.tensor([[0.5, 0.5, 0.0]]).log()
    model = torch.tensor([[0.25, 0.25, 0.5]]).log()
    forward = kl_divergence(model, torch.tensor([0]), reference)
    assert forward.item() == pytest.approx(LOG2)  # Σ ½ log(½ / ¼) twice; 0·log 0 = 0
    # the other direction is infinite: the reference rules out what the model believes
    assert kl_divergence(reference, torch.tensor([0]), model).item() == math.inf


def test_kl_is_zero_only_at_the_reference() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(5, dtype=torch.long)
    assert kl_divergence(logits, target, logits).abs().max() < 1e-6
    assert (kl_divergence(logits, target, logits.flip(-1)) > 0).all()


def test_log_prob_of_an_impossible_target_is_minus_infinity() -> None:
    logits = torch.tensor([[0.0, -math.inf]])
    assert log_prob(logits, torch.tensor([1])).item() == -math.inf
    assert log_prob(logits, torch.tensor([0])).item() == 0.0


@pytest.mark.parametrize("loss", [NLL(), GradAscent(), NPO(0.7), SimNPO(2.5, 0.1)])
def test_gradients_match_finite_differences(loss: NLL | GradAscent | NPO | SimNPO) -> None:
    reference = torch.tensor([-2.0, -1.0], dtype=torch.float64)

    def value(logits: torch.Tensor) -> torch.Tensor:
        return loss(view(log_prob(logits, torch.tensor([0, 2, 1])), reference))

    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(value, logits.requires_grad_())


@pytest.mark.parametrize("loss", [KLFromBase(), KLFromBefore()])
def test_kl_gradients_match_finite_differences(loss: KLFromBase | KLFromBefore) -> None:
    generator = torch.Generator().manual_seed(2)
    reference = torch.randn(3, 4, dtype=torch.float64, generator=generator)

    def value(logits: torch.Tensor) -> torch.Tensor:
        return loss(view(loss.statistic(logits, torch.zeros(3, dtype=torch.long), reference)))

    logits = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(value, logits.requires_grad_())


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, kind in {**FORGET_LOSSES, **RETAIN_LOSSES}.items()
        if "alternates" not in kind.needs  # those have a test of their own
    ),
)
def test_order_of_records_does_not_matter(name: str) -> None:
    loss = {**FORGET_LOSSES, **RETAIN_LOSSES}[name]()
    log_p = P.log() if "kl" not in name else -P.log()
    reference = torch.tensor([-2.0, -1.0], dtype=torch.float64)
    a = loss(TokenView(log_p, RECORD, 2, reference))
    b = loss(TokenView(log_p[[2, 0, 1]], torch.tensor([0, 1, 1]), 2, reference.flip(0)))
    torch.testing.assert_close(a, b)


def test_ragged_lengths_do_not_mix_records() -> None:
    both = TokenView(P.log(), RECORD, 2, None)
    torch.testing.assert_close(both.per_record_sum(), torch.tensor([-3.0, -3.0]).double() * LOG2)
    torch.testing.assert_close(both.per_record_mean(), torch.tensor([-1.5, -3.0]).double() * LOG2)


@pytest.mark.parametrize("kind", [NPO, SimNPO])
def test_beta_must_be_positive(kind: type[NPO] | type[SimNPO]) -> None:
    with pytest.raises(OptionError, match="beta"):
        kind(beta=0.0)
