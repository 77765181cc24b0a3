"""Arithmetic on ΔW, never on the factors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unlearn.errors import ModelError
from unlearn.methods.task_vector import _alpha, _keys, _modules, combine_lora, negate_full
from unlearn.model.adapters import lora_delta_scale

MODULE = "base_model.model.model.layers.{}.self_attn.q_proj"
SIZE = 32


def lora(rank: int, seed: int, layers: int = 2, **config: Any) -> tuple[dict[str, Tensor], Any]:
    generator = torch.Generator().manual_seed(seed)
    pattern = config.get("rank_pattern", {})
    tensors = {}
    for layer in range(layers):
        name = MODULE.format(layer)
        r = pattern.get(f"layers.{layer}.self_attn.q_proj", rank)
        tensors[f"{name}.lora_A.weight"] = torch.randn(r, SIZE, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(SIZE, r, generator=generator)
    return tensors, {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 12,
        "target_modules": ["q_proj"],
        **config,
    }


def lora_deltas(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """ΔW = s·B·A of each module, in float64."""
    deltas = {}
    for module in _modules(tensors):
        a, b = (tensors[key].double() for key in _keys(module, tensors))
        deltas[module] = lora_delta_scale(config, a.shape[0], _alpha(config, module)) * b @ a
    return deltas


PAIRS = {
    "same shape": (lora(4, 0), lora(4, 1)),
    "other rank": (lora(4, 0), lora(2, 1)),
    "rsLoRA": (lora(4, 0, use_rslora=True), lora(4, 1)),
    "patterns": (
        lora(
            4,
            0,
            rank_pattern={"layers.1.self_attn.q_proj": 6},
            alpha_pattern={"layers.1.self_attn.q_proj": 5},
        ),
        lora(3, 1),
    ),
    "other layers": (lora(4, 0, layers=1), lora(4, 1)),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_delta_is_the_weighted_sum(kind: str) -> None:
    first, second = PAIRS[kind]
    one, two = lora_deltas(*first), lora_deltas(*second)
    combined = lora_deltas(*combine_lora(first, second, (1.0, -0.7)))
    assert combined.keys() == one.keys() | two.keys()
    for module, delta in combined.items():
        zero = torch.zeros(SIZE, SIZE, dtype=torch.float64)
        expected = one.get(module, zero) - 0.7 * two.get(module, zero)
        assert (delta - expected).norm() < 1e-6 * expected.norm()


def test_delta_by_hand() -> None:
    tensors = {
        "m.lora_A.weight": torch.tensor([[1.0, 2.0]]),
        "m.lora_B.weight": torch.tensor([[3.0], [0.0]]),
    }
    (delta,) = lora_deltas(tensors, {"lora_alpha": 4}).values()
    assert delta.tolist() == [[12.0, 24.0], [0.0, 0.0]]  # 4 / 1 · B·A


def test_an_adapter_minus_itself_is_nothing() -> None:
    mine = PAIRS["same shape"][0]
    for delta in lora_deltas(*combine_lora(mine, mine, (1.0, -1.0))).values():
        assert delta.abs().max() < 1e-5


@pytest.mark.parametrize("kind", PAIRS)
def test_peft_reads_the_result_as_the_same_change(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    first, second = PAIRS[kind]
    tensors, config = combine_lora(first, second, (1.0, -0.5))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    before = {n: p.detach().clone() for n, p in base.named_parameters()}
    merged = PeftModel.from_pretrained(base, tmp_path).merge_and_unload()
    after = dict(merged.named_parameters())
    for module, delta in lora_deltas(tensors, config).items():
        name = module.removeprefix("base_model.model.") + ".weight"
        torch.testing.assert_close(
            (after[name] - before[name]).double(), delta, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("key", ["use_dora", "modules_to_save"])
def test_what_is_not_low_rank_is_refused_by_name(key: str) -> None:
    with pytest.raises(ModelError, match=key):
        combine_lora(PAIRS["same shape"][0], lora(4, 1, **{key: ["lm_head"]}), (1, 1))


def test_negation_of_a_full_model_by_hand() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(3.0)
    negate_full({"weight": torch.tensor([[1.0]])}, layer, strength=0.5)
    assert layer.weight.item() == 0.0  # 1 − ½·(3 − 1)
