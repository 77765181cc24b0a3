"""RMU: values by hand, and where its hidden states come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unlearn.data.batching import collate
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import encode
from unlearn.errors import OptionError
from unlearn.losses import HiddenMSE, Misdirect, MisdirectByNorm
from unlearn.losses.rmu import random_direction
from unlearn.model.blocks import block_outputs, blocks_of, only_blocks, parse_blocks
from unlearn.model.lm_head import hidden_states
from unlearn.model.state import open_model


def test_the_direction_is_a_unit_vector_and_a_function_of_its_seed() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    u = random_direction(64, 0, like)
    assert u.norm().item() == pytest.approx(1)
    assert (u >= 0).all()
    assert torch.equal(u, random_direction(64, 0, like))
    assert not torch.equal(u, random_direction(64, 1, like))


def test_by_hand() -> None:
    h = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    u = random_direction(2, 5, h)
    expected = ((h - 2.0 * u) ** 2).sum(-1) / 2
    torch.testing.assert_close(Misdirect(0, 2.0, 5).hidden_statistic(h, None), expected)
    assert expected[1].item() == pytest.approx(2.0)  # ‖2u‖²/2
    # a length of 3 times the norms before, 5 and 0
    before = torch.tensor([[-3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    scaled = ((h - torch.tensor([[15.0], [0.0]]) * u) ** 2).sum(-1) / 2
    torch.testing.assert_close(MisdirectByNorm(0, 3.0, 5).hidden_statistic(h, before), scaled)
    assert HiddenMSE(0).hidden_statistic(h, before).tolist() == [18.0, 0.0]


@pytest.mark.parametrize("loss", [Misdirect(0), MisdirectByNorm(0), HiddenMSE(0)])
def test_gradients_match_finite_differences(loss: Misdirect) -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    hidden = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(
        lambda h: loss.hidden_statistic(h, before), hidden.requires_grad_()
    )


def test_block_outputs_are_the_models_own_hidden_states(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    state = open_model(tiny_model, adapter)
    examples = encode(Records.load(data_file), state.tokenizer, Template("qa"), 128)[:3]
    batch = collate(examples)
    depth = len(blocks_of(state.model))
    with torch.no_grad(), block_outputs(state.model, range(depth)) as found:
        hidden_states(state.model, batch)
        expected = state.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            output_hidden_states=True,
        ).hidden_states
    assert sorted(found) == list(range(depth))
    mask = batch["attention_mask"].bool()
    for layer in range(depth - 1):  # the last of theirs comes after the final norm
        torch.testing.assert_close(found[layer][mask], expected[layer + 1][mask])


def test_only_blocks_trains_those_and_restores(tiny_model: Path, adapter: Path) -> None:
    state = open_model(tiny_model, adapter, trainable=True)
    names = [n for n, p in state.model.named_parameters() if p.requires_grad]
    with only_blocks(state.model, {1}):
        inside = [n for n, p in state.model.named_parameters() if p.requires_grad]
        assert inside
        assert all(".layers.1." in name for name in inside)
    assert [n for n, p in state.model.named_parameters() if p.requires_grad] == names


def test_parse_blocks() -> None:
    assert parse_blocks("5-7,9", 12) == {5, 6, 7, 9}
    assert parse_blocks("0", 1) == {0}
    for text in ("", "a", "3-", "7-5", "12"):
        with pytest.raises(OptionError, match="train_layers"):
            parse_blocks(text, 12)
