"""What each treatment does to a model, and that it leaves none behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from unlearn.errors import DataError, ModelError, OptionError
from unlearn.model.frozen_outputs import OUTPUTS
from unlearn.model.scoring import Head
from unlearn.model.state import ModelState, new_adapter, open_model
from unlearn_eval.robustness import TREATMENTS
from unlearn_eval.robustness.treatments.benign import benign
from unlearn_eval.robustness.treatments.logit_lens import leaving_at, lens_blocks, logit_lens
from unlearn_eval.robustness.treatments.merge import merged_bf16
from unlearn_eval.robustness.treatments.quantize import int4, int8, round_symmetric, rounded
from unlearn_eval.robustness.treatments.relearn import pick, relearn, taught
from unlearn_eval.robustness.treatments.scale import scale, scaled
from unlearn_eval.robustness.treatments.treated import Setting, score
from unlearn_eval.robustness.treatments.weights import rewritten
from unlearn_eval.scores.model_scores import score_model

SETTING = Setting(learning_rate=1e-2, seed=3)


def log_probs(state, examples):
    return {split: matrix.log_prob for split, matrix in score(state, examples).items()}


def same(first, second):
    return all(np.array_equal(first[split], second[split]) for split in first)


def near(first, second, tolerance=1e-4):
    return all(np.allclose(first[s], second[s], atol=tolerance) for s in first)


def weights(state):
    named = {**dict(state.model.named_parameters()), **dict(state.model.named_buffers())}
    return {name: (id(value), value.detach().clone()) for name, value in named.items()}


def shaped(tiny_model, **config):
    """A state whose new adapter does something, of any shape."""
    state = new_adapter(open_model(tiny_model), {"r": 4, "lora_alpha": 8, **config}, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in state.model.named_parameters():
            if ".lora_" in name or ".modules_to_save." in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return state


SHAPES = {
    "plain": {"target_modules": "all-linear"},
    "rank-stabilised": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "saved modules": {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.mark.parametrize("name", TREATMENTS)
@pytest.mark.parametrize(
    "kind", ["adapter", "full", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def test_a_treatment_changes_the_scores_and_leaves_the_state_as_it_was(
    name, kind, adapter, tiny_model, examples
):
    dtype = "bfloat16" if kind == "bfloat16" else "auto"
    state = open_model(tiny_model, [] if kind == "full" else [adapter], dtype=dtype)
    was, plain = weights(state), score(state, examples)
    flags = [p.requires_grad for p in state.model.parameters()]
    run = TREATMENTS[name].function()
    if name == "scale" and kind == "full":
        with pytest.raises(ModelError, match="needs an adapter"):
            list(run(state, examples, SETTING))
        return
    found = list(run(state, examples, SETTING))
    assert len({t.deployment for t in found}) == len(found) > 0
    for treated in found:
        after = treated.scores["forget"]
        before = plain["forget"].take([plain["forget"].ids.index(i) for i in after.ids])
        assert not np.array_equal(after.log_prob, before.log_prob), treated.deployment
    now = weights(state)
    assert now.keys() == was.keys()
    for key, (identity, value) in was.items():
        assert now[key][0] == identity, key
        assert torch.equal(now[key][1], value), key
    assert same(log_probs(state, examples), {s: m.log_prob for s, m in plain.items()})
    assert [p.requires_grad for p in state.model.parameters()] == flags
    assert all(p.grad is None for p in state.model.parameters())
    assert not any(module.training for module in state.model.modules())


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("shape", SHAPES)
def test_merging_alone_changes_nothing(shape, tiny_model, examples):
    state = shaped(tiny_model, **SHAPES[shape])
    with state.reference("base") as (base, head):
        apart = score_model(base, head, examples["forget"]).log_prob
    scores = log_probs(state, examples)
    assert not np.allclose(scores["forget"], apart, atol=1e-2)  # the adapter does something
    with rewritten(state, lambda *_: None):
        assert near(log_probs(state, examples), scores)
        # and it is merged: without its factors nothing changes
        merged = log_probs(state, examples)
        factors = [p for n, p in state.model.named_parameters() if ".lora_B." in n]
        kept = [p.detach().clone() for p in factors]
        with torch.no_grad():
            for parameter in factors:
                parameter.zero_()
            assert same(log_probs(state, examples), merged)
            for parameter, value in zip(factors, kept, strict=True):
                parameter.copy_(value)
    assert same(log_probs(state, examples), scores)


@pytest.mark.parametrize("name", TREATMENTS)
def test_states_on_one_base_share_frozen_blocks_to_the_bit(name, tiny_model, examples):
    shape = {"target_modules": "all-linear", "layers_to_transform": [1]}
    run = TREATMENTS[name].function()

    def treated():
        state = shaped(tiny_model, **shape)
        return [
            {split: matrix.log_prob for split, matrix in each.scores.items()}
            for each in [*run(state, examples, SETTING), *run(state, examples, SETTING)]
        ]

    with OUTPUTS.resting():
        alone = treated()
    OUTPUTS.clear()
    plain = score(shaped(tiny_model, **shape), examples)
    for scores, expected in zip([*treated(), *treated()], [*alone, *alone], strict=True):
        assert same(scores, expected)
    assert OUTPUTS.in_memory > 0
    again = score(shaped(tiny_model, **shape), examples)
    assert all(np.array_equal(plain[s].log_prob, again[s].log_prob) for s in plain)


def test_several_adapters_are_merged_together(open_state, adapter, examples):
    state = open_state(adapter, adapter)
    scores = log_probs(state, examples)
    with rewritten(state, lambda *_: None):
        assert near(log_probs(state, examples), scores)
    assert same(log_probs(state, examples), scores)


def test_an_error_on_the_way_leaves_the_state_as_it_was(open_state, examples):
    state = open_state()
    was, scores = weights(state), log_probs(state, examples)
    seen = []

    def change(module, name, value):
        seen.append(name)
        if len(seen) == 9:
            raise ValueError("stop")
        return value + 1

    with pytest.raises(ValueError, match="stop"), rewritten(state, change):
        pass
    assert {k: v[0] for k, v in weights(state).items()} == {k: v[0] for k, v in was.items()}
    assert same(log_probs(state, examples), scores)


def test_rounding_is_that_of_the_merged_linear_layers_of_the_blocks(open_state, examples):
    state, twin = open_state(), open_state()
    net = twin.model.merge_and_unload()
    with torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, nn.Linear) and ".layers." in name:
                module.weight.copy_(round_symmetric(module.weight, 4, 32))
    wanted = score_model(net, twin.head, examples["forget"]).log_prob
    (found,) = int4(state, examples, SETTING, groups=[32])
    assert found.deployment == "int4 group=32"
    np.testing.assert_allclose(found.scores["forget"].log_prob, wanted, atol=1e-4)


def test_rounding_to_bf16_is_that_of_all_weights(open_state, examples):
    state, twin = open_state(), open_state()
    net = twin.model.merge_and_unload()
    with torch.no_grad():  # the frequencies of rotary embeddings are no weights
        for parameter in net.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    wanted = score_model(net, twin.head, examples["forget"]).log_prob
    with merged_bf16(state):
        found = score(state, examples)["forget"].log_prob
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_packed_weights_are_refused(open_state):
    state = open_state()
    layer = state.model.get_base_model().model.layers[0].mlp.down_proj.base_layer
    layer.weight = nn.Parameter(layer.weight.to(torch.uint8), requires_grad=False)
    with (
        pytest.raises(ModelError, match="quantised already"),
        rounded(state, lambda w: round_symmetric(w, 8)),
    ):
        pass


def test_a_model_with_most_weights_elsewhere_is_not_half_rounded(open_state):
    state = open_state()
    block = state.model.get_base_model().model.layers[0]
    block.register_parameter("experts", nn.Parameter(torch.ones(8, 64, 64), requires_grad=False))
    with pytest.raises(ModelError, match="mixtures of experts"), rounded(state, lambda w: w):
        pass


def test_channels_of_gpt2_are_its_columns(examples):
    config = GPT2Config(
        vocab_size=320, n_positions=128, n_embd=32, n_layer=1, n_head=4, initializer_range=0.2
    )
    torch.manual_seed(0)
    net = GPT2LMHeadModel(config).eval()
    state = ModelState(net, None, "gpt2", Path(), None, Head.of(net))
    (found,) = int8(state, {"forget": examples["forget"]}, SETTING)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".h." in name and parameter.dim() == 2:
                parameter.copy_(round_symmetric(parameter.T, 8).T)
    wanted = score_model(net, state.head, examples["forget"]).log_prob
    np.testing.assert_allclose(found.scores["forget"].log_prob, wanted, atol=1e-5)


def test_layers_that_blocks_share_are_rewritten_once(open_state):
    state = open_state()
    layers = state.model.get_base_model().model.layers
    layers[1].mlp = layers[0].mlp
    seen = []
    with rewritten(state, lambda module, name, _: seen.append((id(module), name))):
        assert len(seen) == len(set(seen))


def test_scaling_by_0_is_the_base_and_by_1_the_state_bit_by_bit(open_state, examples):
    state = open_state()
    scores = log_probs(state, examples)
    with state.reference("base") as (base, head):
        apart = {s: score_model(base, head, part).log_prob for s, part in examples.items()}
    with scaled(state, 0.0):
        assert same(log_probs(state, examples), apart)
    with scaled(state, 1.0):
        assert same(log_probs(state, examples), scores)


def test_scaling_scales_the_change(open_state, examples):
    state, twin = open_state(), open_state()
    with torch.no_grad():
        for name, parameter in twin.model.named_parameters():
            if ".lora_B." in name:
                parameter.mul_(0.5)
    (found,) = scale(state, examples, SETTING, factors=[0.5])
    assert found.deployment == "scale=0.5"
    np.testing.assert_allclose(
        found.scores["forget"].log_prob, log_probs(twin, examples)["forget"], atol=1e-6
    )


def test_only_the_last_adapter_is_scaled(open_state, adapter, examples):
    one, two = open_state(), open_state(adapter, adapter)
    with scaled(two, 0.0):
        assert same(log_probs(two, examples), log_probs(one, examples))


@pytest.mark.parametrize("shape", ["dora", "saved modules"])
def test_what_does_not_scale_is_refused(shape, tiny_model):
    state = shaped(tiny_model, **SHAPES[shape])
    with pytest.raises(ModelError, match="plain LoRA"), scaled(state, 0.5):
        pass


def test_the_lens_is_final_norm_and_projection_of_a_block(open_state, examples):
    state = open_state()
    example = examples["forget"][1]
    ids = torch.from_numpy(example.ids)[None]
    with torch.no_grad():
        net = state.model.get_base_model()
        hidden = state.model(input_ids=ids, output_hidden_states=True).hidden_states[1]
        logits = net.lm_head(net.model.norm(hidden))[0].log_softmax(-1)
    at = np.flatnonzero(example.target)
    wanted = logits[at - 1, example.ids[at]].numpy()
    (found,) = logit_lens(state, {"forget": [example]}, SETTING, blocks=[0])
    assert found.deployment == "logit lens block=0"
    np.testing.assert_allclose(found.scores["forget"].log_prob, wanted, atol=1e-4)


def test_the_lens_at_the_last_block_is_the_model(open_state, examples):
    state = open_state()
    with leaving_at(state, 1):
        assert same(log_probs(state, examples), log_probs(open_state(), examples))
    with pytest.raises(OptionError, match="0 to 1"), leaving_at(state, 2):
        pass


@pytest.mark.parametrize(
    ("depth", "wanted"), [(1, []), (2, [0]), (4, [0, 1, 2]), (32, [7, 15, 23])]
)
def test_blocks_of_the_lens(depth, wanted):
    assert lens_blocks(depth) == wanted


def test_relearning_brings_the_loss_of_its_records_down(open_state, examples):
    state = open_state()
    records = {"forget": examples["forget"][:2]}
    before = -log_probs(state, records)["forget"].mean()
    with taught(state, records["forget"], 10, SETTING):
        after = -log_probs(state, records)["forget"].mean()
    assert after < before - 0.5
    assert -log_probs(state, records)["forget"].mean() == before


def test_relearning_trains_the_last_adapter_alone(open_state, adapter, examples):
    state = open_state(adapter, adapter)
    was = weights(state)
    with taught(state, examples["forget"][:2], 2, SETTING):
        moved = {n for n, (_, v) in weights(state).items() if not torch.equal(v, was[n][1])}
    assert moved
    assert all(".default" in name for name in moved)


def test_relearning_looks_at_the_others_with_each_seed_s_own_draw(open_state, examples):
    state = open_state()
    found = list(relearn(state, examples, SETTING, k=3, steps=1, seeds=[0, 1, 2]))
    assert [t.deployment for t in found] == [
        f"relearned seed={seed} k=2 steps=1" for seed in range(3)
    ]
    ids = [e.id for e in examples["forget"]]
    for seed, treated in enumerate(found):
        drawn = {e.id for e in pick(examples["forget"], 3, seed)}
        assert len(drawn) == 2
        assert treated.scores["forget"].ids == tuple(i for i in ids if i not in drawn)
        assert treated.scores["holdout"].records == 8
    assert len({t.scores["forget"].ids for t in found}) > 1


def test_relearning_is_repeatable(open_state, examples):
    first, second = (next(relearn(open_state(), examples, SETTING)) for _ in range(2))
    assert np.array_equal(first.scores["forget"].log_prob, second.scores["forget"].log_prob)
    assert first.params["learning_rate"] == 1e-2


def test_benign_training_takes_unseen_records_else_kept_ones(open_state, examples):
    state = open_state()
    (found,) = benign(state, examples, SETTING, k=3, steps=1)
    assert found.deployment == "fine-tuned k=3 steps=1"
    assert found.params["records"] == "holdout"
    assert found.scores["forget"].records == 4
    assert found.scores["holdout"].records == 5
    few = {split: examples[split] for split in ("forget", "retain")}
    (found,) = benign(state, few, SETTING, k=5, steps=1)
    assert found.scores["retain"].records == 4
    with pytest.raises(DataError, match="needs two records"):
        list(benign(state, {"forget": examples["forget"]}, SETTING))


def test_relearning_needs_a_record_to_look_at(examples):
    with pytest.raises(DataError, match="two records"):
        pick(examples["forget"][:1], 5, 0)
