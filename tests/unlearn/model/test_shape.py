"""A retrained adapter has the configuration and the tensors of the old one, field by field."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from unlearn import forget
from unlearn.errors import ModelError
from unlearn.model.shape import BOOKKEEPING, NEEDS_MORE, adapter_like, shape_of
from unlearn.model.state import open_model
from unlearn.runs.references import train_references

QUICK = {"max_steps": 1, "batch_size": 2, "learning_rate": 1e-3}

# Every field of a configuration that makes a shape, at another value than by default.
CHOSEN: dict[str, dict[str, Any]] = {
    "r": {"r": 3},
    "target_modules": {"target_modules": ["q_proj", "lm_head"]},
    "exclude_modules": {"exclude_modules": ["v_proj"]},
    "lora_alpha": {"lora_alpha": 5},
    "lora_dropout": {"lora_dropout": 0.25},
    "fan_in_fan_out": {"fan_in_fan_out": True, "target_modules": ["c_attn"]},
    "use_rslora": {"use_rslora": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "init_lora_weights": {"init_lora_weights": "gaussian"},
    "layers_to_transform": {"layers_to_transform": 0},
    "layers_pattern": {"layers_pattern": "layers", "layers_to_transform": [1]},
    "rank_pattern": {"rank_pattern": {"q_proj": 2}},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 3}},
    "trainable_token_indices": {"trainable_token_indices": [5, 6]},
    "use_dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "target_parameters": {"target_parameters": ["mlp.experts.gate_up_proj"]},
    "ensure_weight_tying": {"ensure_weight_tying": True, "modules_to_save": ["embed_tokens"]},
}
# What goes with another field only, or is refused when an adapter is opened.
WITH_OTHERS = {"qalora_group_size", "bias"}

NEEDED: dict[str, Any] = {
    "megatron_config": {"some": 1},
    "loftq_config": {"loftq_bits": 4},
    "alora_invocation_tokens": [3],
    "use_qalora": True,
    "layer_replication": [[0, 1]],
}


def fields() -> set[str]:
    return {field.name for field in dataclasses.fields(LoraConfig)}


def base(folder: Path, kind: str, tiny_model: Path) -> Path:
    """A tiny model of an architecture that has the layers in question."""
    if kind == "llama":
        return tiny_model
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    common = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1}
    if kind == "gpt2":
        config = AutoConfig.for_model("gpt2", n_embd=32, n_layer=2, n_head=4, **common)
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
        config = AutoConfig.for_model("mixtral", **sizes, **heads, **common)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def original(model: Path, folder: Path, **config: Any) -> Path:
    """What PEFT itself saves."""
    usual = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "v_proj"]}
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(3)
    get_peft_model(net, LoraConfig(**(usual | config))).save_pretrained(folder)
    return folder


def kind_of(name: str) -> str:
    return {"fan_in_fan_out": "gpt2", "target_parameters": "mixtral"}.get(name, "llama")


def test_every_field_is_copied_or_named_as_one_that_is_not() -> None:
    accounted = {*CHOSEN, *BOOKKEEPING, *NEEDS_MORE, *WITH_OTHERS}
    assert fields() - accounted == set(), (
        "a field that is new in PEFT: copied, or cannot be trained?"
    )
    assert set(CHOSEN).isdisjoint(BOOKKEEPING)
    assert set(CHOSEN).isdisjoint(NEEDS_MORE)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CHOSEN)
def test_a_field_is_found_again_and_the_tensors_are_alike(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = base(tmp_path / "base", kind_of(name), tiny_model)
    old = original(model, tmp_path / "old", **CHOSEN[name])
    state = adapter_like(open_model(model), old, seed=1)
    state.save(new := Path(tmp_path / "new"))
    configs = [json.loads((f / "adapter_config.json").read_text()) for f in (old, new)]
    for field in sorted(fields() - BOOKKEEPING):
        values = [config.get(field) for config in configs]
        pair = [sorted(v) if isinstance(v, list) else v for v in values]
        assert pair[0] == pair[1], field
    assert configs[1][name] != dataclasses.asdict(LoraConfig())[name]
    tensors = [load_file(f / "adapter_model.safetensors") for f in (old, new)]
    shapes = [{k: v.shape for k, v in each.items()} for each in tensors]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", sorted(NEEDS_MORE))
def test_what_needs_more_than_records_is_refused_by_name(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    old = original(tiny_model, tmp_path / "old")
    file = old / "adapter_config.json"
    asked = json.loads(file.read_text()) | {name: NEEDED.get(name, {"some": 1})}
    file.write_text(json.dumps(asked))
    with pytest.raises(ModelError, match=name):
        shape_of(old)


@pytest.mark.parametrize("start", ["eva", "pissa_niter_4", "corda", "loftq", "olora", "lora_ga"])
def test_an_initialisation_that_needs_data_or_another_base_is_refused(
    start: str, tiny_model: Path, tmp_path: Path
) -> None:
    old = original(tiny_model, tmp_path / "old")
    file = old / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"init_lora_weights": start}))
    with pytest.raises(ModelError, match=start):
        shape_of(old)


def test_a_setting_of_a_newer_peft_is_told_and_not_retrained(
    tiny_model: Path, tmp_path: Path
) -> None:
    old = original(tiny_model, tmp_path / "old")
    file = old / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_more": True, "off": False}))
    (note,) = open_model(tiny_model, old).notes
    assert "use_more" in note
    assert "off" not in note.replace("of the", "")
    with pytest.raises(ModelError, match="use_more"):
        shape_of(old)


def test_an_adapter_that_does_not_come_out_alike_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    old = original(tiny_model, tmp_path / "old")
    file = old / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 5}))
    with pytest.raises(ModelError, match="of another shape"):
        adapter_like(open_model(tiny_model), old, 0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["layers_to_transform", "trainable_token_indices", "lora_bias"])
def test_retrain_and_references_make_the_same_shape(
    name: str, tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    old = original(tiny_model, tmp_path / "old", **CHOSEN[name])
    result = forget(
        tiny_model,
        data_file,
        "r1",
        tmp_path / "new",
        adapter=old,
        method="retrain",
        options=QUICK | {"epochs": 1},
    )
    done = train_references(
        tiny_model,
        data_file,
        tmp_path / "refs",
        forget="r1",
        like=old,
        count=2,
        options=QUICK | {"epochs": 1},
    )
    wanted = {k: v.shape for k, v in load_file(old / "adapter_model.safetensors").items()}
    for folder in (result.folder, *done.folders):
        made = load_file(folder / "adapter_model.safetensors")
        assert {k: v.shape for k, v in made.items()} == wanted
