"""Probes write on from the model alone, whatever its folder asks of generation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from unlearn.data.tokenization import Example
from unlearn.model.generation import end_tokens, generate
from unlearn.model.state import ModelState, new_adapter, open_model

LENGTH = 8
PROMPTS = ([0, 40, 50, 60], [0, 70, 80, 90, 44])

# For every field of a generation configuration, what would change the text, or fail.
BIASED = [[[7], 90.0]]
ASKED: dict[str, Any] = {
    "max_length": 5,
    "max_new_tokens": 1,
    "min_length": 40,
    "min_new_tokens": 40,
    "early_stopping": "never",
    "max_time": 1e-9,
    "stop_strings": ["a", "e", "o", " "],
    "do_sample": True,
    "num_beams": 3,
    "use_mtp": True,
    "use_cache": False,
    "cache_implementation": "quantized",
    "cache_config": {"backend": "none such"},
    "max_cache_len": 2,
    "temperature": 9.0,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.9,
    "top_h": 0.5,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.5,
    "eta_cutoff": 0.5,
    "repetition_penalty": 9.0,
    "encoder_repetition_penalty": 9.0,
    "length_penalty": -9.0,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[i] for i in range(2, 200)],
    "renormalize_logits": True,
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 9,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [1, 99.0],
    "suppress_tokens": list(range(2, 200)),
    "begin_suppress_tokens": list(range(2, 200)),
    "sequence_bias": BIASED,
    "token_healing": True,
    "guidance_scale": 9.0,
    "watermarking_config": {"bias": 90.0, "greenlist_ratio": 0.5},
    "num_return_sequences": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": True,
    "pad_token_id": 9,
    "bos_token_id": 9,
    "eos_token_id": [1, 9],
    "encoder_no_repeat_ngram_size": 1,
    "decoder_start_token_id": 9,
    "is_assistant": True,
    "num_assistant_tokens": 3,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.9,
    "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 2,
    "assistant_early_exit": 1,
    "assistant_lookbehind": 3,
    "target_lookbehind": 3,
    "assistant_ensemble_weight": 0.9,
    "speculation_type": "none such",
    "compile_config": {"fullgraph": True},
    "disable_compile": True,
    "continuous_batching_config": {},
    "low_memory": True,
    "penalty_alpha": 0.9,
    "dola_layers": "high",
    "diversity_penalty": 9.0,
    "num_beam_groups": 2,
    "constraints": [1],
    "force_words_ids": [[9]],
    "prefill_chunk_size": 2,
}
# Versions are no choice of how to write.
BOOKKEEPING = {"_from_model_config", "transformers_version"}


@pytest.fixture(scope="module")
def states(tiny_model: Path) -> dict[str, ModelState]:
    bare = open_model(tiny_model)
    adapted = new_adapter(open_model(tiny_model), {"r": 3, "target_modules": "all-linear"}, 1)
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return {"base": bare, "adapter": adapted}


def beginnings() -> list[Example]:
    return [
        Example(str(i), np.array(ids), np.zeros(len(ids), bool)) for i, ids in enumerate(PROMPTS)
    ]


@torch.no_grad()
def step_by_step(state: ModelState, ends: set[int]) -> list[list[int]]:
    """The likeliest token again and again, by plain forward passes without a cache."""
    texts = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(LENGTH):
            ids.append(int(state.model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in ends:
                break
        texts.append(ids[len(prompt) :])
    return texts


def written(state: ModelState) -> list[list[int]]:
    ends = end_tokens(state.model, state.tokenizer)
    rows = generate(state.model, beginnings(), LENGTH, ends)
    texts = []
    for row in rows:
        stop = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        texts.append(row[:stop].tolist())
    return texts


@pytest.mark.parametrize("kind", ["base", "adapter"])
@pytest.mark.parametrize("name", sorted({*GenerationConfig().to_dict()} - BOOKKEEPING))
def test_every_field_of_a_generation_configuration_is_set_aside(
    name: str, kind: str, states: dict[str, ModelState]
) -> None:
    assert name in ASKED, "a field that is new in transformers: say here what would change the text"
    state = states[kind]
    inner = state.model.get_base_model() if kind == "adapter" else state.model
    asking = GenerationConfig()
    setattr(asking, name, ASKED[name])
    plain, inner.generation_config = inner.generation_config, asking
    try:
        # of all fields only the ends of a text are the model's own
        ends = {1, 9} if name == "eos_token_id" else {1}
        assert written(state) == step_by_step(state, ends)
        assert inner.generation_config is asking
    finally:
        inner.generation_config = plain


def test_a_field_of_a_folders_own_is_set_aside(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    asked = {"stop_strings": [" "], "suppress_tokens": list(range(2, 200)), "eos_token_id": [1, 44]}
    (folder / "generation_config.json").write_text(json.dumps(asked | {"own_field": 3}))
    state = open_model(folder)
    assert written(state) == step_by_step(state, {1, 44})


def test_of_a_sample_no_token_is_left_out(states: dict[str, ModelState]) -> None:
    state = states["base"]
    asking = GenerationConfig(do_sample=True, top_k=1, temperature=1e-6)
    plain, state.model.generation_config = state.model.generation_config, asking
    try:
        torch.manual_seed(0)
        first = {
            int(generate(state.model, beginnings()[:1], 1, np.array([1]), sample=True)[0][0])
            for _ in range(40)
        }
    finally:
        state.model.generation_config = plain
    assert len(first) > 10
