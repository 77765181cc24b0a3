"""Models without weights have the shapes of those with weights, and run on shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn.errors import ModelError
from unlearn.model.held import bytes_of, counted
from unlearn.model.opening import Opening
from unlearn.model.weightless import weightless
from unlearn.training.memory import scoring_needs
from unlearn.training.options import LoraOptions

CPU = torch.device("cpu")
FLOAT = Opening(dtype="float32")

SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def test_parameters_and_bytes_are_those_of_the_model(tiny_model: Path) -> None:
    from unlearn.model.state import new_adapter, open_model

    shape = LoraOptions().model_dump()
    state = new_adapter(open_model(tiny_model, dtype="float32"), shape, 0)
    shapes = weightless(tiny_model, FLOAT, CPU, [shape])
    parameters = list(state.model.parameters())
    assert shapes.parameters == sum(p.numel() for p in parameters)
    assert shapes.trainable == sum(p.numel() for p in parameters if p.requires_grad)
    assert shapes.weights + shapes.adapters == bytes_of([*parameters, *state.model.buffers()])
    assert shapes.max_length == 128
    assert all(p.is_meta for p in shapes.model.parameters())


def test_codes_of_four_bits_are_half_a_byte_and_a_scale_for_64(tiny_model: Path) -> None:
    whole = weightless(tiny_model, FLOAT, CPU)
    codes = weightless(tiny_model, Opening(dtype="float32", load_in_4bit=True), CPU)
    matrices = 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert codes.parameters == whole.parameters
    assert whole.weights - codes.weights == 4 * matrices - (matrices // 2 + 4 * matrices // 64)


def test_attention_counts_its_two_products_and_keeps_no_scores() -> None:
    net = torch.nn.Linear(1, 1, device="meta")
    with counted(net, "cpu") as held:
        heads = [torch.empty(2, 4, 50, 8, requires_grad=True) for _ in range(3)]
        before = held.now
        out = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        assert held.operations == 2 * 2 * (2 * 4 * 50 * 8) * 50
        assert held.now - before == bytes_of([out]) + 4 * 2 * 4 * 50
        del out
        assert held.now == before


@pytest.mark.parametrize(
    "kind",
    ["llama", "mistral", "qwen2", "qwen3", "gemma2", "olmo2", "phi3", "gpt2", "gpt_neox", "opt"],
)
def test_architectures_run_on_shapes(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    from unlearn.data.tokenization import Example

    names = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
        "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    }
    AutoConfig.for_model(kind, **SMALL | names.get(kind, {})).save_pretrained(tmp_path)
    shapes = weightless(tmp_path, FLOAT, CPU)
    target = torch.arange(12).numpy() > 5
    records = [
        Example("a", target.astype("int64"), target),
        Example("b", target[2:].astype("int64"), target[2:]),
    ]
    found = scoring_needs(shapes, records, "cpu")
    assert found.memory.passes > 0
    assert found.operations > 0


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        weightless(tmp_path, FLOAT, CPU)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    with pytest.raises(ModelError, match="cannot make a model"):
        weightless(tmp_path, FLOAT, CPU)
