"""Reference views: numerically right, without copies, and leaving no trace behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from unlearn.errors import ModelError
from unlearn.model.scoring import hidden_states
from unlearn.model.state import ModelState, new_adapter, open_model, swap_adapters

IDS = torch.tensor([[0, 40, 50, 60, 70]])
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


@torch.no_grad()
def logits(state: ModelState) -> Tensor:
    return state.model.eval()(**BATCH).logits


def snapshot(state: ModelState) -> dict[str, Any]:
    return {
        "grad": {n: p.requires_grad for n, p in state.model.named_parameters()},
        "mode": {n: m.training for n, m in state.model.named_modules()},
        "active": {
            n: (m._active_adapter, m._disable_adapters)
            for n, m in state.model.named_modules()
            if hasattr(m, "_disable_adapters")
        },
    }


def shaken(state: ModelState) -> ModelState:
    """Move the trainable weights, put the model into training mode with dropout on."""
    with torch.no_grad():
        for parameter in state.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    for module in state.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    state.model.train()
    return state


def make(model: Path, folder: Path, **config: Any) -> Path:
    state = new_adapter(open_model(model), {"r": 3, "target_modules": "all-linear"} | config, 1)
    shaken(state).model.eval()
    folder.mkdir()
    state.save(folder)
    return folder


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"lora_dropout": 0.3},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
}
# "dropout" and "rslora" change but a number of what "plain" has
MARKED = [
    pytest.param(kind, marks=[pytest.mark.slow] if kind in ("dropout", "rslora") else [])
    for kind in KINDS
]


@pytest.mark.parametrize("kind", MARKED)
def test_references_are_the_models_they_stand_for(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    if kind == "modules_to_save":
        tiny_model = untied(tiny_model, tmp_path / "untied")
    folder = make(tiny_model, tmp_path / "a", **KINDS[kind])
    before, base = logits(open_model(tiny_model, folder)), logits(open_model(tiny_model))
    assert (before - base).abs().max() > 1e-2
    state = shaken(open_model(tiny_model, folder, trainable=True))
    state.prepare_reference("before")
    shape = snapshot(state)
    for which, expected in (("before", before), ("base", base)):
        with state.reference(which) as (model, head):
            found = head(hidden_states(model, BATCH)[0])
        torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-4)
        # the head still stands for the reference when the block has ended
        with state.reference(which) as (model, head):
            hidden = hidden_states(model, BATCH)[0]
        torch.testing.assert_close(head(hidden), expected[0], rtol=1e-4, atol=1e-4)
        assert snapshot(state) == shape
    assert (logits(state) - before).abs().max() > 1e-2


def untied(model: Path, to: Path) -> Path:
    """The same model with a head of its own, which an adapter can save."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(model, to)
    net = AutoModelForCausalLM.from_pretrained(model)
    net.config.tie_word_embeddings = False
    net.lm_head.weight = torch.nn.Parameter(net.lm_head.weight.detach().clone())
    net.save_pretrained(to)
    return to


def test_a_reference_is_left_whole_when_something_breaks(tiny_model: Path, adapter: Path) -> None:
    state = shaken(open_model(tiny_model, adapter, trainable=True))
    shape = snapshot(state)
    with pytest.raises(ZeroDivisionError), state.reference("base"):
        raise ZeroDivisionError
    assert snapshot(state) == shape


def test_gradients_reach_the_right_adapter_after_a_reference(
    tiny_model: Path, adapter: Path
) -> None:
    state = open_model(tiny_model, adapter, trainable=True)
    state.prepare_reference("before")
    with state.reference("before") as (model, _):
        hidden = hidden_states(model, BATCH)
        assert not hidden.requires_grad
    hidden_states(state.model, BATCH).square().sum().backward()
    for name, parameter in state.model.named_parameters():
        assert (parameter.grad is not None) == (".default." in name), name
        if parameter.grad is not None and "lora_A" in name:
            assert parameter.grad.abs().sum() > 0


def test_the_base_is_never_copied(tiny_model: Path, adapter: Path) -> None:
    state = open_model(tiny_model, adapter, trainable=True)
    base = {n: p.data_ptr() for n, p in state.model.named_parameters() if "lora_" not in n}
    state.prepare_reference("before")
    state.prepare_reference("base")
    after = {n: p.data_ptr() for n, p in state.model.named_parameters() if "lora_" not in n}
    assert after == base


def test_a_full_fine_tune_is_its_own_frozen_reference(tiny_model: Path) -> None:
    state = open_model(tiny_model, trainable=True)
    before = logits(state)
    state.prepare_reference("before")
    shaken(state)
    with state.reference("before") as (model, head):
        found = head(hidden_states(model, BATCH)[0])
    torch.testing.assert_close(found, before[0])
    with pytest.raises(ModelError, match="needs an adapter"):
        state.prepare_reference("base")


def test_two_adapters_at_once_train_only_the_last(tiny_model: Path, tmp_path: Path) -> None:
    one, two = (make(tiny_model, tmp_path / name) for name in ("one", "two"))
    state = open_model(tiny_model, [one, two], trainable=True)
    trained = {n for n, p in state.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".default." in name for name in trained)
    both = logits(state)
    state.prepare_reference("before")
    with state.reference("before") as (model, head):
        torch.testing.assert_close(head(hidden_states(model, BATCH)[0]), both[0])
    # ΔW of both adds up
    base = open_model(tiny_model).model
    expected = base.state_dict()["model.layers.0.self_attn.q_proj.weight"].clone()
    for folder in (one, two):
        tensors = load_file(folder / "adapter_model.safetensors")
        stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
        scale = json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] / 3
        expected += scale * tensors[f"{stem}B.weight"] @ tensors[f"{stem}A.weight"]
    merged = state.model.merge_and_unload()
    found = merged.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_swapping_adapters_equals_opening_anew(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    other = make(tiny_model, tmp_path / "other")
    state = swap_adapters(open_model(tiny_model, adapter), [other])
    torch.testing.assert_close(logits(state), logits(open_model(tiny_model, other)))
    state = swap_adapters(state, [adapter])
    torch.testing.assert_close(logits(state), logits(open_model(tiny_model, adapter)))


@pytest.mark.parametrize("kind", MARKED)
def test_what_is_saved_is_a_plain_peft_adapter(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if kind == "modules_to_save":
        tiny_model = untied(tiny_model, tmp_path / "untied")
    folder = make(tiny_model, tmp_path / "a", **KINDS[kind])
    state = shaken(open_model(tiny_model, folder, trainable=True))
    expected = logits(state)
    (tmp_path / "b").mkdir()
    state.prepare_reference("before")  # a second adapter in memory must not be saved along
    state.save(tmp_path / "b")
    names = {p.name for p in (tmp_path / "b").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert not any((tmp_path / "b" / name).is_dir() for name in names)
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / "b"
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(**BATCH).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "bias='all'"),
        ({"init_lora_weights": "pissa"}, "'pissa'"),
        ({"init_lora_weights": "olora"}, "'olora'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
    ],
)
def test_other_adapters_are_refused_by_name(
    changes: dict[str, Any], message: str, tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(adapter, bad)
    config = json.loads((bad / "adapter_config.json").read_text())
    (bad / "adapter_config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=message):
        open_model(tiny_model, bad)


def test_an_adapter_of_another_shape_is_refused(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    config = LlamaConfig.from_pretrained(tiny_model)
    bare = tmp_path / "bare"
    shutil.copytree(adapter, bare, ignore=shutil.ignore_patterns("lineage.json"))
    config.hidden_size, config.head_dim = 48, 12
    LlamaForCausalLM(config).save_pretrained(other)
    with pytest.raises(ModelError, match="made for another base"):
        open_model(other, bare)
    config = LlamaConfig.from_pretrained(tiny_model)
    config.num_hidden_layers = 1  # all shapes fit, but a layer is missing
    config.layer_types = None
    LlamaForCausalLM(config).save_pretrained(other)
    with pytest.raises(ModelError, match="made for another base"):
        open_model(other, bare)


def test_a_base_with_nan_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    bad = tmp_path / "bad"
    shutil.copytree(tiny_model, bad)
    tensors = load_file(bad / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="model.norm.weight holds NaN"):
        open_model(bad)
