"""A base in bfloat16 on a CPU, and activations computed twice, against float32 and once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unlearn import losses
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.model.blocks import blocks_of
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState, open_model
from unlearn.training.fitting import fit, record_losses
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions

NPO = Objective(losses.NPO(), losses.NLL())
TYPES = ("float32", "bfloat16")


def opened(
    model: Path, adapter: Path, data: Path, kind: str = "float32"
) -> tuple[ModelState, list[Example]]:
    state = open_model(model, adapter, trainable=True, dtype=kind, device="cpu")
    return state, encode(Records.load(data), state.tokenizer, Template("qa"), 128)


def weights(state: ModelState) -> dict[str, torch.Tensor]:
    parameters = state.model.named_parameters()
    return {name: each.detach().clone() for name, each in parameters if each.requires_grad}


def record_loss(state: ModelState, examples: list[Example]) -> np.ndarray:
    return record_losses(*score_examples(state.model, state.head, examples))


def trained(state: ModelState, examples: list[Example], **options: object) -> None:
    chosen = {"learning_rate": 1e-3, "batch_size": 4, "max_steps": 12, "stop": "none"} | options
    training = TrainingOptions.model_validate(chosen)
    fit(state, NPO, training, forget=examples[:4], retain=examples[4:])


def test_scores_of_bfloat16_are_near_those_of_float32(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    """Half a unit in the last of 8 bits is 2⁻⁹ of each hidden state and logit (here up to 8)."""
    (whole, examples), (half, _) = (opened(tiny_model, adapter, data_file, t) for t in TYPES)
    assert {p.dtype for n, p in half.model.named_parameters() if "lora" in n} == {torch.float32}
    assert next(half.model.parameters()).dtype == torch.bfloat16
    expected, found = (record_loss(state, examples) for state in (whole, half))
    far = np.abs(found - expected)
    assert far.max() < 0.02
    assert far.max() > 0  # it did compute in bfloat16


def test_scores_of_bfloat16_are_reduced_in_float32(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    """log p = z − logsumexp z of the model's own logits, to float32 and not to bfloat16.

    Each logit has one rounding to bfloat16, which two ways of computing it may take to either side;
    what no reduction in bfloat16 gives is a sum over the vocabulary that is right to 1e-5.
    """
    half, examples = opened(tiny_model, adapter, data_file, "bfloat16")
    statistics, _ = score_examples(half.model, half.head, examples[:1])
    assert statistics.log_prob.dtype == torch.float32
    ids = torch.tensor(examples[0].ids)[None].long()
    with torch.no_grad():
        logits = half.model(ids).logits[0, :-1]
    assert logits.dtype == torch.bfloat16
    told = torch.from_numpy(examples[0].target[1:])
    target = ids[0, 1:, None]
    expected = logits.float().log_softmax(-1).gather(-1, target)[told, 0]
    torch.testing.assert_close(statistics.log_prob, expected, rtol=0, atol=1e-5)
    coarse = logits.log_softmax(-1).gather(-1, target)[told, 0].float()
    assert (coarse - expected).abs().max() > 1e-3


def test_forgetting_on_a_bfloat16_base_goes_the_same_way(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    changes, moved = [], []
    for kind in TYPES:
        state, examples = opened(tiny_model, adapter, data_file, kind)
        before, start = record_loss(state, examples), weights(state)
        trained(state, examples)
        changes.append(record_loss(state, examples) - before)
        moved.append(torch.cat([(w - start[n]).flatten() for n, w in weights(state).items()]))
    assert changes[0][:4].mean() > 0.1  # they are forgotten
    assert np.abs(changes[1] - changes[0]).max() < 0.05
    cosine = torch.nn.functional.cosine_similarity(moved[0], moved[1], dim=0)
    assert cosine > 0.98


@pytest.mark.parametrize("kind", TYPES)
def test_computing_activations_twice_trains_every_tensor_of_an_adapter(
    kind: str, tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    state, examples = opened(tiny_model, adapter, data_file, kind)
    assert len(weights(state)) == 2 * 7 * 2  # A and B of seven layers in two blocks
    passes: list[int] = []
    with blocks_of(state.model)[0].input_layernorm.register_forward_hook(
        lambda *_: passes.append(torch.is_grad_enabled())
    ):
        trained(state, examples, max_steps=2)
        once = sum(passes)
        passes.clear()
        before = weights(state)
        trained(state, examples, gradient_checkpointing=True, max_steps=2)
    assert sum(passes) == 2 * once > 0
    still = [name for name, w in weights(state).items() if torch.equal(w, before[name])]
    assert still == []
