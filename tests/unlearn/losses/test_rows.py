"""Each token's value is its own: whatever stands beside it, and however tokens are laid out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special, stats

from unlearn.errors import OptionError
from unlearn.losses import (
    DPO,
    FORGET_LOSSES,
    NPO,
    RETAIN_LOSSES,
    UNDIAL,
    WGA,
    HiddenLoss,
    HiddenMSE,
    Misdirect,
    MisdirectByNorm,
    SatImp,
    SimNPO,
    StayAndLearn,
    TokenView,
    js_divergence,
    kl_divergence,
)
from unlearn.losses.ce_u import cross_entropy_without_target
from unlearn.losses.flatness import squared_logit_margin
from unlearn.losses.rmu import random_direction
from unlearn.losses.uniform import divergence_from_uniform
from unlearn.losses.wga import weighted_ascent

TOKENS, VOCABULARY = 6, 5
GENERATOR = torch.Generator().manual_seed(11)
LOGITS, REFERENCE = (
    torch.randn(TOKENS, VOCABULARY, dtype=torch.float64, generator=GENERATOR) for _ in range(2)
)
# entries that one rules out, the other, or both
LOGITS[1, 2] = LOGITS[2, 0] = LOGITS[4, 3] = -math.inf
REFERENCE[1, 2] = REFERENCE[3, 1] = REFERENCE[4, 3] = -math.inf
TARGET = torch.tensor([0, 3, 1, 4, 2, 2])

HIDDEN: list[HiddenLoss] = [Misdirect(0, 0.3, 2), MisdirectByNorm(0, 0.7, 2), HiddenMSE(0)]
PLAIN = {
    name: kind()
    for name, kind in {**FORGET_LOSSES, **RETAIN_LOSSES}.items()
    if not isinstance(kind(), HiddenLoss)
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_token_has_the_same_value_alone(name: str) -> None:
    statistic = PLAIN[name].statistic
    together = statistic(LOGITS, TARGET, REFERENCE)
    assert together.shape == (TOKENS,)
    assert together.dtype == torch.float64
    alone = [statistic(LOGITS[i : i + 1], TARGET[i : i + 1], REFERENCE[i : i + 1])[0]
             for i in range(TOKENS)]  # fmt: skip
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-12, atol=1e-12)
    # the vocabulary is the last dimension, whatever the others are
    apart = statistic(LOGITS.view(2, 3, -1), TARGET.view(2, 3), REFERENCE.view(2, 3, -1))
    torch.testing.assert_close(apart, together.view(2, 3), rtol=0, atol=0)


@pytest.mark.parametrize("loss", HIDDEN)
def test_a_hidden_state_has_the_same_value_alone(loss: HiddenLoss) -> None:
    hidden, before = torch.randn(2, 6, 4, dtype=torch.float64, generator=GENERATOR)
    together = loss.hidden_statistic(hidden, before)
    alone = [loss.hidden_statistic(hidden[i : i + 1], before[i : i + 1])[0] for i in range(6)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-12, atol=0)
    apart = loss.hidden_statistic(hidden.view(2, 3, -1), before.view(2, 3, -1))
    torch.testing.assert_close(apart, together.view(2, 3), rtol=0, atol=0)


def test_a_token_without_another_leaves_the_others_as_they_are() -> None:
    """Nothing is left to learn instead of the first, and of the second what there is."""
    logits = torch.tensor([[0.3, -math.inf, -math.inf], [0.3, 0.2, -1.0]], dtype=torch.float64)
    target = torch.tensor([0, 0])
    found = cross_entropy_without_target(logits, target)
    assert found[0] == 0.0
    assert found[1] == cross_entropy_without_target(logits[1:], target[1:])[0]
    logits.requires_grad_()
    cross_entropy_without_target(logits, target).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [0.0, 0.0, 0.0]
    assert logits.grad[1].isfinite().all()
    logits = logits.detach()
    apart = cross_entropy_without_target(logits.view(2, 1, 3), target.view(2, 1))
    assert torch.equal(apart, found.view(2, 1))


def test_divergences_are_those_of_scipy() -> None:
    p, q = special.softmax(LOGITS.numpy(), -1), special.softmax(REFERENCE.numpy(), -1)
    m = (p + q) / 2
    halves = (stats.entropy(p, m, axis=-1) + stats.entropy(q, m, axis=-1)) / 2
    np.testing.assert_allclose(js_divergence(LOGITS, TARGET, REFERENCE), halves, rtol=1e-12)
    kl = stats.entropy(q, p, axis=-1)
    assert math.isinf(kl[2])
    np.testing.assert_allclose(kl_divergence(LOGITS, TARGET, REFERENCE), kl, rtol=1e-12)
    finite = np.isfinite(LOGITS.numpy())
    counts = finite.sum(-1)
    even = [stats.entropy(f / n, r) for f, n, r in zip(finite, counts, p, strict=True)]
    np.testing.assert_allclose(divergence_from_uniform(LOGITS, TARGET), even, rtol=1e-12)
    means = np.where(finite, LOGITS, 0).sum(-1) / counts
    margin = (LOGITS.numpy().max(-1) - means) ** 2
    np.testing.assert_allclose(squared_logit_margin(LOGITS, TARGET), margin, rtol=1e-12)


def test_the_direction_has_the_precision_of_what_it_is_compared_with() -> None:
    hidden = torch.randn(3, 7, dtype=torch.float64, generator=GENERATOR)
    before = torch.randn(3, 7, dtype=torch.float64, generator=GENERATOR)
    u = random_direction(7, 4, hidden)
    assert (u.dtype, u.shape) == (torch.float64, (7,))
    expected = (hidden - 0.3 * u).square().mean(-1)
    assert torch.equal(Misdirect(0, 0.3, 4).hidden_statistic(hidden, None), expected)
    expected = (hidden - 0.3 * before.norm(dim=-1, keepdim=True) * u).square().mean(-1)
    torch.testing.assert_close(
        MisdirectByNorm(0, 0.3, 4).hidden_statistic(hidden, before), expected, rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("loss", HIDDEN)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_distances_have_the_precision_of_the_hidden_states(
    loss: HiddenLoss, dtype: torch.dtype
) -> None:
    hidden = torch.ones(2, 3, dtype=dtype)
    assert loss.hidden_statistic(hidden, hidden).dtype == dtype


@pytest.mark.parametrize(("beta1", "beta2"), [(0.0, 0.0), (1.0, 0.0), (0.0, 2.0), (5.0, 1.0)])
def test_a_token_that_is_impossible_has_nothing_left_to_forget(beta1: float, beta2: float) -> None:
    log_p = torch.tensor([math.log(0.3), -math.inf], dtype=torch.float64, requires_grad=True)
    found = weighted_ascent(log_p, beta1, beta2)
    found.sum().backward()
    assert found.tolist() == pytest.approx([0.3**beta1 * 0.7**beta2 * math.log(0.3), 0.0])
    assert log_p.grad is not None
    assert log_p.grad.tolist() == pytest.approx([0.3**beta1 * 0.7**beta2, 0.0])


@pytest.mark.parametrize(
    "make",
    [
        WGA,
        UNDIAL,
        lambda x: SatImp(x, 1.0),
        lambda x: SatImp(1.0, x),
        lambda x: StayAndLearn(x, 1.0),
        lambda x: StayAndLearn(1.0, x),
        lambda x: Misdirect(0, x),
        lambda x: MisdirectByNorm(0, x),
    ],
)
def test_weights_may_be_0_and_not_below(make: Callable[[float], object]) -> None:  # fmt: skip
    for fine in (0.0, 0.5, 3.0):
        make(fine)
    for wrong in (-0.5, math.nan):
        with pytest.raises(OptionError, match="must not be negative"):
            make(wrong)


@pytest.mark.parametrize(("kind", "name"), [(NPO, "npo"), (DPO, "dpo"), (SimNPO, "simnpo")])
def test_temperatures_must_be_above_0(kind: Callable[[float], object], name: str) -> None:
    kind(0.5)
    for wrong in (0.0, -0.5, math.nan):
        with pytest.raises(OptionError, match=f"^{name}: beta must be positive, not {wrong}$"):
            kind(wrong)


def test_sums_and_means_of_records_are_over_their_own_tokens() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    view = TokenView(values, torch.tensor([1, 0, 1, 1]), 2)
    assert view.per_record_sum().tolist() == [2.0, 13.0]
    assert view.per_record_mean().tolist() == [2.0, 13.0 / 3]
    # a record without tokens adds up to nothing
    assert TokenView(values, torch.tensor([1, 0, 1, 1]), 3).per_record_sum().tolist()[2] == 0.0
