from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import DataError, ModelError
from unlearn.model.scoring import Head
from unlearn.model.state import new_adapter, open_model
from unlearn_eval.membership import grad_norm
from unlearn_eval.passes import grad_norm as passes
from unlearn_eval.passes.grad_norm import gradient_norms, trained

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def opened(tiny_model, **config):
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "lora_dropout": 0.5}
    state = new_adapter(open_model(tiny_model), settings | config, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():  # a fresh B is 0, and A would have no gradient
        for name, weight in state.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    state.model.requires_grad_(False)
    return state


def by_hand(state, example: Example) -> float:
    """‖∇‖ of one record from the model's own logits and autograd."""
    weights = trained(state.model)
    for weight in weights.values():
        weight.requires_grad_(True)
    ids = torch.from_numpy(example.ids)[None]
    log_p = state.model(input_ids=ids).logits[0].log_softmax(-1)
    at = torch.from_numpy(np.flatnonzero(example.target))
    loss = -log_p[at - 1, ids[0, at]].mean()
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    for weight in weights.values():
        weight.requires_grad_(False)
    return float(sum(g.double().square().sum() for g in gradients if g is not None)) ** 0.5


@pytest.fixture
def examples(tiny_model, data_file):
    tokenizer = open_model(tiny_model).tokenizer
    found = encode(Records.load(data_file), tokenizer, Template("qa"), 128)[:7]
    single = np.zeros(len(found[0].ids), dtype=bool)
    single[-1] = True  # one target token
    return [*found, Example("single", found[0].ids, single)]


@pytest.mark.parametrize("budget", [60, 100_000])
@pytest.mark.parametrize(
    "config", [{}, {"target_modules": ["v_proj"], "use_rslora": True}], ids=["all", "rslora"]
)
def test_one_backward_equals_a_loop_over_single_records(
    tiny_model, examples, config, budget, monkeypatch
):
    state = opened(tiny_model, **config)
    monkeypatch.setattr(passes, "_alone", lambda *_: pytest.fail("a loop"))
    state.model.train()
    norms = gradient_norms(state.model, state.head, examples, token_budget=budget)
    assert state.model.training
    state.model.eval()
    np.testing.assert_allclose(norms, [by_hand(state, e) for e in examples], rtol=1e-5)
    assert not any(w.requires_grad or w.grad is not None for w in state.model.parameters())


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["v_proj", "lm_head"]},
        {"target_modules": ["v_proj", "embed_tokens"]},
    ],
    ids=["dora", "modules_to_save", "head", "embedding"],
)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
def test_what_hooks_do_not_cover_is_computed_record_by_record(tiny_model, examples, config):
    state = opened(tiny_model, **config)
    norms = gradient_norms(state.model, state.head, examples[:3])
    np.testing.assert_allclose(norms, [by_hand(state, e) for e in examples[:3]], rtol=1e-5)


def test_a_full_model_counts_every_weight(tiny_model, examples):
    state = open_model(tiny_model)
    norms = gradient_norms(state.model, state.head, examples[:2])
    np.testing.assert_allclose(norms, [by_hand(state, e) for e in examples[:2]], rtol=1e-5)


def test_a_layer_used_twice_has_the_gradient_of_both_uses(tiny_model, examples):
    state = opened(tiny_model)
    layers = state.model.get_base_model().model.layers
    layers[1].self_attn.v_proj = layers[0].self_attn.v_proj
    norms = gradient_norms(state.model, state.head, examples[:2])
    np.testing.assert_allclose(norms, [by_hand(state, e) for e in examples[:2]], rtol=1e-5)


def test_only_the_last_adapter_counts(tiny_model, examples, adapter):
    state = open_model(tiny_model, [adapter, adapter])
    assert all(".default" in name for name in trained(state.model))
    norms = gradient_norms(state.model, state.head, examples[:3])
    np.testing.assert_allclose(norms, [by_hand(state, e) for e in examples[:3]], rtol=1e-5)


def test_training_on_a_record_lowers_the_norm_of_its_gradient(tiny_model, examples):
    """The orientation: a record learnt by heart must outscore itself before."""
    state = opened(tiny_model, lora_dropout=0.0)
    before = grad_norm.score(gradient_norms(state.model, state.head, examples[:1]))
    weights = list(trained(state.model).values())
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        passes._loss(state.model, state.head, examples[:1]).backward()
        optimizer.step()
    after = grad_norm.score(gradient_norms(state.model, state.head, examples[:1]))
    assert after[0] > 0.5 * before[0]
    assert all(weight.requires_grad for weight in weights)


def test_refuses_what_has_no_gradient(tiny_model, examples):
    with pytest.raises(DataError, match="record 1"):
        grad_norm.score([1.0, np.nan])
    with pytest.raises(DataError, match="record 0"):
        grad_norm.score([-1.0])
    assert grad_norm.score([2.0, 0.0]).tolist() == [-2.0, 0.0]
    with pytest.raises(ModelError, match="has none"):
        trained(nn.Module())
    state = opened(tiny_model)
    with torch.no_grad():
        next(w for n, w in state.model.named_parameters() if "lora_B" in n).fill_(torch.inf)
    with pytest.raises(DataError, match="gradient of its loss"):
        gradient_norms(state.model, Head(state.head.module), examples[:2])
    assert gradient_norms(state.model, state.head, []).shape == (0,)
