from __future__ import annotations

import pytest
import torch

from unlearn_eval.robustness.treatments.merge import cast_bf16
from unlearn_eval.robustness.treatments.quantize import round_nf4, round_symmetric


def test_four_bits_by_hand():
    # s = 7/7 = 1 in the first row; s = 0.7/7 = 0.1 in the second, 0.26 → 3 steps, −0.04 → 0
    weight = torch.tensor([[7.0, -3.4, 0.5, 1.5], [0.7, 0.26, -0.04, -0.7]])
    wanted = torch.tensor([[7.0, -3.0, 0.0, 2.0], [0.7, 0.3, 0.0, -0.7]])  # ties to even
    torch.testing.assert_close(round_symmetric(weight, 4), wanted)


def test_a_group_has_a_scale_of_its_own_and_the_last_may_be_short():
    weight = torch.tensor([[7.0, 1.2, 0.07, 0.012, 14.0]])
    # groups (7, 1.2), (0.07, 0.012), (14): scales 1, 0.01, 2
    wanted = torch.tensor([[7.0, 1.0, 0.07, 0.01, 14.0]])
    torch.testing.assert_close(round_symmetric(weight, 4, group=2), wanted)
    coarse = round_symmetric(weight, 4)  # s = 2: 1.2 → 2, and the small ones are gone
    torch.testing.assert_close(coarse, torch.tensor([[8.0, 2.0, 0.0, 0.0, 14.0]]))


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 32), (4, 64), (4, 128), (2, 3)])
def test_the_error_is_at_most_half_a_step(bits, group):
    torch.manual_seed(0)
    weight = torch.randn(16, 200) * torch.logspace(-3, 2, 16)[:, None]
    found = round_symmetric(weight, bits, group)
    for part, was in zip(
        torch.split(found, group or 200, -1), torch.split(weight, group or 200, -1), strict=True
    ):
        step = was.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((part - was).abs() <= step / 2 * (1 + 1e-5)).all()
        assert (part - was).abs().max() > step.min() / 4  # it did round
        assert torch.unique(part[0]).numel() <= 2**bits - 1


def test_what_lies_on_the_grid_is_exact():
    levels = torch.arange(-127, 128).float()[None] * 0.25
    assert torch.equal(round_symmetric(levels, 8), levels)
    nibbles = torch.arange(-7, 8).float()[None] * 2.0**-9
    assert torch.equal(round_symmetric(nibbles, 4, group=128), nibbles)
    assert torch.equal(round_symmetric(torch.zeros(2, 5), 4, group=2), torch.zeros(2, 5))


def test_normal_float_by_hand():
    # the largest of the block is 2: 2·0.4407 = 0.8814 and 2·0.5626 = 1.1252 are the neighbours of 1
    block = torch.zeros(1, 64)
    block[0, :4] = torch.tensor([2.0, 1.0, -2.0, 0.07])
    found = round_nf4(block)
    wanted = [2.0, 2 * 0.44070982933044434, -2.0, 0.0]  # 0.07 is nearer to 0 than to 0.159
    torch.testing.assert_close(found[0, :4], torch.tensor(wanted))
    assert not found[0, 4:].any()
    assert torch.equal(round_nf4(found), found)


def test_blocks_of_normal_float_run_on_across_rows():
    weight = torch.full((2, 48), 0.5)
    weight[0, 0] = 1.0
    found = round_nf4(weight)
    # 0.5 lies between 0.4407 and 0.5626, border 0.5017; the second block has 0.5 as its largest
    inside = torch.full((63,), 0.44070982933044434)
    torch.testing.assert_close(found.reshape(-1)[1:64], inside)
    assert torch.equal(found.reshape(-1)[64:], torch.full((32,), 0.5))


def test_bf16_keeps_eight_significant_bits_with_ties_to_even():
    value = torch.tensor([1.0, 1 + 2**-7, 1 + 2**-8, 1 + 3 * 2**-8, -3.140625])
    wanted = torch.tensor([1.0, 1 + 2**-7, 1.0, 1 + 2**-6, -3.140625])
    assert torch.equal(cast_bf16(value), wanted)
