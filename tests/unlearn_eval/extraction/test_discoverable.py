from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.errors import DataError, OptionError
from unlearn_eval.extraction import discoverable
from unlearn_eval.extraction.discoverable import log_prob_of_target, tries_needed
from unlearn_eval.scores.token_scores import SAMPLER


def test_tries_worked_by_hand():
    # 1 − .9^n ≥ .5 first at n = 7 (.9^6 = .531, .9^7 = .478); ≥ .9 first at n = 22 (.9^21 = .109)
    assert tries_needed(math.log(0.1), 0.5) == 7
    assert tries_needed(math.log(0.1), 0.9) == 22
    # exactly reached: 1 − .5^1 = .5, 1 − .5^2 = .75, 1 − .9^2 = .19
    assert tries_needed(math.log(0.5), 0.5) == 1
    assert tries_needed(math.log(0.5), 0.75) == 2
    assert tries_needed(math.log(0.1), 0.19) == 2


def test_limits():
    assert tries_needed(0.0, 0.999) == 1  # certain
    assert tries_needed(1e-4, 0.999) == 1  # rounding above certain
    assert tries_needed(-np.inf, 0.001) == math.inf
    # far below what 1 − p could resolve: n = log 2 / p_z
    assert tries_needed(-100.0, 0.5) == pytest.approx(math.log(2) * math.exp(100), rel=1e-9)
    assert tries_needed([], 0.5).shape == (0,)
    for p in (0.0, 1.0, -1.0):
        with pytest.raises(OptionError, match="not between 0 and 1"):
            tries_needed(0.0, p)


@given(st.floats(1e-6, 1.0), st.floats(0.001, 0.999))
def test_is_the_first_number_of_tries_that_suffices(p_z, p):
    n = float(tries_needed(math.log(p_z), p))
    assert 1 - (1 - p_z) ** n >= p - 1e-9
    assert n == 1 or 1 - (1 - p_z) ** (n - 1) < p + 1e-9


def test_probability_of_a_target_is_the_product_over_its_tokens(make_scores):
    scores = make_scores(
        [[-1.0, -2.0], [-0.5], [-1.0, -1.0]],
        sampled={SAMPLER: [-0.5, -1.0, -0.25, -0.5, -np.inf]},
    )
    assert log_prob_of_target(scores).tolist() == [-1.5, -0.25, -np.inf]
    assert log_prob_of_target(scores, (1.0, 0)).tolist() == [-3.0, -0.5, -2.0]  # no cut at all
    assert discoverable.score(scores, n=1, p=0.5).tolist() == [False, True, False]
    assert discoverable.score(scores, n=3, p=0.5).tolist() == [True, True, False]
    with pytest.raises(DataError, match=r"no sampling at T=0\.7, k=5 \(they hold T=1, k=40\)"):
        discoverable.score(scores, sampler=(0.7, 5))
    with pytest.raises(OptionError, match="at least 1"):
        discoverable.score(scores, n=0)


@pytest.mark.parametrize("sampler", [(1.0, 0), (1.0, 3), (0.7, 4)])
def test_agrees_with_real_sampling(sampler):
    """What teacher forcing says of one answer is how often real sampling gives that answer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from unlearn.data.tokenization import Example
    from unlearn.model.scoring import Head, score_examples

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=7,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            initializer_range=1.0,
        )
    )
    temperature, k = sampler
    n = 4000
    prompt = torch.tensor([[1, 4, 2]])
    written = model.generate(
        prompt.repeat(n, 1),
        attention_mask=torch.ones(n, 3, dtype=torch.long),
        max_new_tokens=3,
        do_sample=True,
        temperature=temperature,
        top_k=k,
        pad_token_id=0,
        eos_token_id=None,
    )[:, 3:].numpy()
    answers, counts = np.unique(written, axis=0, return_counts=True)
    target = np.array([False] * 3 + [True] * 3)
    examples = [Example(str(i), np.array([1, 4, 2, *a]), target) for i, a in enumerate(answers)]
    found, _ = score_examples(model, Head.of(model), examples, samplers=[sampler])
    chance = np.exp(found.sampled[sampler].double().numpy().reshape(-1, 3).sum(1))
    assert (chance > 0).all()  # nothing was sampled that the scores rule out
    error = np.sqrt(chance * (1 - chance) / n)
    # several hundred answers at once: 5 standard errors, and 3 counts for the rarest
    assert (np.abs(counts / n - chance) < 5 * error + 3 / n).all()
    assert chance.sum() == pytest.approx(1.0, abs=0.1)
