"""The losses that prefer another answer: values by hand, directions, bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unlearn.errors import OptionError
from unlearn.losses import DPO, FLAT, NPO, JensUn, Loss, TokenView
from unlearn.losses.jensen_shannon import js_divergence, js_from_one_hot

LOG2 = math.log(2)
# One record of 2 tokens, another answer of 1 token; a second record of 1 and 2.
RECORD, OTHER = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])


def view(own: list[float], other: list[float], grad: bool = False) -> TokenView:
    """Log-probabilities of tokens with these probabilities, and references of ½ a token."""
    y, z = (torch.tensor(p, dtype=torch.float64).log().requires_grad_(grad) for p in (own, other))
    refs = torch.tensor([2.0, 1.0], dtype=torch.float64) * -LOG2
    return TokenView(y, RECORD, 2, refs, TokenView(z, OTHER, 2, refs.flip(0)))


def test_dpo_by_hand() -> None:
    beta = 0.5
    # Δ(y) = log ¼ + log ½ + 2 log 2 = −log 2 and log ½ + log 2 = 0; Δ(y') = log ½ + log 2 = 0 and
    # log ¼ + log ¼ + 2 log 2 = −2 log 2
    expected = sum(math.log1p(math.exp(-beta * x)) for x in (LOG2, -2 * LOG2)) * 2 / beta
    found = DPO(beta)(view([0.25, 0.5, 0.5], [0.5, 0.25, 0.25])).item()
    assert found == pytest.approx(expected)


def test_dpo_without_a_change_of_the_other_answer_is_npo() -> None:
    own = view([0.25, 0.5, 0.1], [0.5, 0.5, 0.5])
    assert DPO(0.3)(own).item() == pytest.approx(NPO(0.3)(own).item())


@pytest.mark.parametrize("loss", [DPO(), FLAT(), JensUn()])
def test_raises_the_other_answer_and_lowers_the_own(loss: Loss) -> None:
    seen = view([0.9, 0.8, 0.7], [0.1, 0.2, 0.3], grad=True)
    loss(seen).backward()
    assert seen.alternate is not None
    assert seen.alternate.values.grad is not None
    assert (seen.alternate.values.grad < 0).all()
    if not isinstance(loss, JensUn):  # which looks at the other answer alone
        assert seen.values.grad is not None
        assert (seen.values.grad > 0).all()


def test_flat_by_hand() -> None:
    # mean probabilities ⅜ and ½ of the own answers, ½ and ¼ of the others
    expected = math.exp(0.375 - 1) - 0.5 + math.exp(0.5 - 1) - 0.25
    assert FLAT()(view([0.25, 0.5, 0.5], [0.5, 0.25, 0.25])).item() == pytest.approx(expected)


def test_flat_is_bounded() -> None:
    best = FLAT()(view([1e-9] * 3, [1.0] * 3)).item() / 2
    worst = FLAT()(view([1.0] * 3, [1e-9] * 3)).item() / 2
    assert best == pytest.approx(math.exp(-1) - 1)
    assert worst == pytest.approx(1)


def test_js_from_one_hot_is_the_divergence_from_a_one_hot() -> None:
    logits = torch.tensor([[0.3, 0.5, 0.2]], dtype=torch.float64).log()
    one_hot = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64).log()
    expected = js_divergence(logits, torch.tensor([1]), one_hot)
    torch.testing.assert_close(js_from_one_hot(logits[:, 1]), expected)


def test_js_from_one_hot_at_its_ends() -> None:
    log_p = torch.tensor([0.0, -math.inf], dtype=torch.float64, requires_grad=True)
    found = js_from_one_hot(log_p)
    found.sum().backward()
    assert found.tolist() == pytest.approx([0.0, LOG2])
    assert log_p.grad is not None
    assert torch.isfinite(log_p.grad).all()


@pytest.mark.parametrize("loss", [DPO(0.7), FLAT(), JensUn()])
def test_gradients_match_finite_differences(loss: Loss) -> None:
    refs = torch.tensor([-2.0, -1.0], dtype=torch.float64)

    def total(own: Tensor, other: Tensor) -> Tensor:
        return loss(TokenView(own, RECORD, 2, refs, TokenView(other, OTHER, 2, refs)))

    generator = torch.Generator().manual_seed(0)
    own, other = (-torch.rand(3, dtype=torch.float64, generator=generator) for _ in range(2))
    assert torch.autograd.gradcheck(lambda z: total(own.detach(), z), other.requires_grad_())
    if not isinstance(loss, JensUn):  # which does not look at the record's own answer
        assert torch.autograd.gradcheck(lambda y: total(y, other.detach()), own.requires_grad_())


@pytest.mark.parametrize("loss", [DPO(), FLAT(), JensUn()])
def test_order_of_records_does_not_matter(loss: Loss) -> None:
    a = view([0.9, 0.8, 0.7], [0.1, 0.2, 0.3])
    assert a.alternate is not None
    assert a.reference_log_probs is not None
    assert a.alternate.reference_log_probs is not None
    b = TokenView(
        a.values[[2, 0, 1]],
        torch.tensor([0, 1, 1]),
        2,
        a.reference_log_probs.flip(0),
        TokenView(
            a.alternate.values[[1, 2, 0]],
            torch.tensor([0, 0, 1]),
            2,
            a.alternate.reference_log_probs.flip(0),
        ),
    )
    torch.testing.assert_close(loss(a), loss(b))


def test_beta_must_be_positive() -> None:
    with pytest.raises(OptionError, match="beta"):
        DPO(0.0)
