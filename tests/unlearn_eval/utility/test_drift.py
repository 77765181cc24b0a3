from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unlearn.data.tokenization import Example
from unlearn.model.scoring import Head, score_examples
from unlearn_eval.utility.drift import Anchor, kl_divergence


def logits(*p: float) -> torch.Tensor:
    return torch.tensor([p]).log()


def test_divergence_worked_by_hand():
    found = kl_divergence(logits(0.5, 0.5), logits(0.25, 0.75))
    assert found.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    # the direction matters: KL(before ‖ after)
    other = kl_divergence(logits(0.25, 0.75), logits(0.5, 0.5))
    assert other.item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert kl_divergence(logits(0.3, 0.7), logits(0.3, 0.7)).item() == pytest.approx(0, abs=1e-7)


def test_divergence_at_zero_probability():
    assert kl_divergence(logits(1.0, 0.0), logits(0.5, 0.5)).item() == pytest.approx(math.log(2))
    assert kl_divergence(logits(0.5, 0.5), logits(1.0, 0.0)).item() == math.inf


def model(seed: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=31,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )


def test_equals_the_divergence_of_full_distributions_and_costs_no_pass(monkeypatch):
    monkeypatch.setattr("unlearn_eval.utility.drift._CHUNK", 3)
    first, second = model(0), model(1)
    rng = np.random.default_rng(0)
    examples = [
        Example(str(i), rng.integers(3, 31, n), np.arange(n) >= cut)
        for i, (n, cut) in enumerate([(9, 2), (4, 3), (12, 4), (6, 1)])
    ]
    chosen = [3, 0, 2]
    anchor = Anchor(chosen, [e.targets for e in examples])
    passes = 0

    def count(*_):
        nonlocal passes
        passes += 1

    for net in (first, second):
        net.register_forward_hook(count)
    # another order of batches each time: results are kept by record
    for net, observe, budget in (
        (first, anchor.remember(Head.of(first)), 16),
        (second, (pair := anchor.compare(Head.of(second)))[0], 4096),
    ):
        passes = 0
        score_examples(net, Head(net.lm_head), examples, token_budget=budget, observe=observe)
        assert passes == (3 if budget == 16 else 1)
    found = anchor.values(pair[1])
    assert anchor.positions.tolist() == [0, 2, 3]
    for value, i in zip(found, [0, 2, 3], strict=True):
        e = examples[i]
        ids = torch.from_numpy(e.ids)[None]
        at = np.flatnonzero(e.target) - 1
        with torch.no_grad():
            p, q = (n(input_ids=ids).logits[0, at].double() for n in (first, second))
        expected = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1).mean()
        assert value == pytest.approx(float(expected), rel=1e-5)


def test_a_projection_with_an_adapter_is_remembered_as_it_was():
    from peft import LoraConfig, get_peft_model

    net = get_peft_model(model(0), LoraConfig(r=2, target_modules=["lm_head"]))
    anchor = Anchor([0], [1])
    anchor.remember(Head(net.get_base_model().lm_head))([0], torch.ones(1, 16))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.arange(parameter.numel()).sin().view_as(parameter))
    observe, found = anchor.compare(Head(net.get_base_model().lm_head))
    observe([0], torch.ones(1, 16))
    assert found[0] > 1e-3  # the same states, another projection
