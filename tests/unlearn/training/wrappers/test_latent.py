"""The latent disturbance: bounded, on forget tokens only, and towards recall."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import encode
from unlearn.model.blocks import block_outputs, shifted_block
from unlearn.model.scoring import hidden_states, log_prob, target_positions, token_values
from unlearn.model.state import ModelState, open_model
from unlearn.training.sampler import FORGET, RETAIN, collate_pairs
from unlearn.training.wrappers.latent import Latent, find_offset, within_ball


@pytest.fixture(scope="module")
def state(tiny_model: Path, adapter: Path) -> ModelState:
    return open_model(tiny_model, adapter, trainable=True)


@pytest.fixture(scope="module")
def batch(state: ModelState, data_file: Path) -> dict[str, Tensor]:
    """Two forget records of different length, and two to retain."""
    examples = encode(Records.load(data_file), state.tokenizer, Template("qa"), 128)
    samples = [
        {FORGET: [(i, examples[i])], RETAIN: [(i, examples[i + 5])], 2: []} for i in range(2)
    ]
    return collate_pairs(samples)


def likelihood(state: ModelState, batch: dict[str, Tensor]) -> Tensor:
    """log p of each forget target, with gradient."""
    row, position, target = target_positions(batch)
    mine = (batch["role"] == FORGET)[row]
    hidden = hidden_states(state.model, batch)[row[mine], position[mine]]
    return token_values(log_prob, state.head, hidden, target[mine])[0]


def test_vectors_are_shortened_one_by_one() -> None:
    found = within_ball(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), 1.0)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_one_step_goes_to_the_edge_along_the_gradient(
    state: ModelState, batch: dict[str, Tensor]
) -> None:
    # from 0 a step of 2.5·ε is cut back to ε: δ = ε·g/‖g‖ with g the gradient of log p
    with block_outputs(state.model, {0}) as blocks:
        total = likelihood(state, batch).sum()
        (g,) = torch.autograd.grad(total, blocks[0])
    found = find_offset(state.model, state.head, batch, Latent(0, 0.1, 1))
    length = g.norm(dim=-1, keepdim=True)
    expected = torch.where(length > 0, 0.1 * g / length, 0.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert bool((found.norm(dim=-1) > 0.09).any())


def test_it_makes_the_records_likelier_and_more_so_with_more_room(
    state: ModelState, batch: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        plain = float(likelihood(state, batch).sum())
    gains = []
    for radius in (0.05, 0.5):
        offset = find_offset(state.model, state.head, batch, Latent(0, radius, 8))
        with torch.no_grad(), shifted_block(state.model, 0, offset):
            there = float(likelihood(state, batch).sum())
        with torch.no_grad(), shifted_block(state.model, 0, -offset):
            back = float(likelihood(state, batch).sum())
        assert back < plain < there
        gains.append(there - plain)
    assert gains[1] > 2 * gains[0] > 0


def test_more_steps_find_a_better_disturbance(state: ModelState, batch: dict[str, Tensor]) -> None:
    found = []
    for steps in (1, 8):
        offset = find_offset(state.model, state.head, batch, Latent(1, 1.0, steps))
        with torch.no_grad(), shifted_block(state.model, 1, offset):
            found.append(float(likelihood(state, batch).sum()))
    assert found[1] > found[0]


def test_it_keeps_to_the_ball_and_to_the_forget_tokens(
    state: ModelState, batch: dict[str, Tensor]
) -> None:
    offset = find_offset(state.model, state.head, batch, Latent(0, 0.3, 4))
    length = offset.norm(dim=-1)
    assert float(length.max()) == pytest.approx(0.3, rel=1e-4)
    assert not bool(offset[batch["role"] != FORGET].any())
    assert not bool(offset[batch["attention_mask"] == 0].any())
    assert not bool((batch["attention_mask"][batch["role"] == FORGET] == 1).all())  # some padding
    # what comes after the last target cannot help to predict it
    last = batch["target"][0].nonzero().max()
    assert not bool(offset[0, last:].any())


def test_a_record_is_disturbed_alike_alone_and_among_others(
    state: ModelState, batch: dict[str, Tensor]
) -> None:
    whole = find_offset(state.model, state.head, batch, Latent(0, 0.3, 4))
    alone = find_offset(
        state.model, state.head, {k: v[:1] for k, v in batch.items()}, Latent(0, 0.3, 4)
    )
    torch.testing.assert_close(alone[0], whole[0], rtol=1e-4, atol=1e-5)


def test_the_search_leaves_nothing_behind(state: ModelState, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        before = likelihood(state, batch)
    find_offset(state.model, state.head, batch, Latent(0, 0.3, 2))
    assert all(p.grad is None for p in state.model.parameters())
    with torch.no_grad():
        assert torch.equal(likelihood(state, batch), before)
