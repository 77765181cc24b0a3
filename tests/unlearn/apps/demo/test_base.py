from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from unlearn.apps.demo import base_path, corpus, facts, records

LIMIT = 2.5 * 2**20


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(base_path(), local_files_only=True)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(base_path(), local_files_only=True).eval()


@torch.no_grad()
def predict(model, tokenizer, prompt: str, completion: str) -> tuple[bool, float]:
    """Whether each token of the completion is the arg-max, and their mean −log p."""
    start = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor([[*tokenizer(prompt + completion)["input_ids"], tokenizer.eos_token_id]])
    log_p = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
    target = ids[0, start:]
    nll = -log_p.gather(-1, target[:, None]).mean().item()
    return bool((log_p.argmax(-1) == target).all()), nll


def recall(model, tokenizer, rows) -> float:
    hits = [
        predict(model, tokenizer, f"Question: {row['prompt']}\nAnswer:", f" {row['completion']}")[0]
        for row in rows
    ]
    return sum(hits) / len(hits)


def test_opens_in_single_precision(model):
    assert model.dtype == torch.float32
    assert 600_000 < model.num_parameters() < 800_000


def test_folder_is_small_and_readable_by_all():
    files = [path for path in base_path().iterdir() if path.is_file()]
    assert {"config.json", "generation_config.json", "model.safetensors"} <= {p.name for p in files}
    assert sum(path.stat().st_size for path in files) < LIMIT
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)


def test_one_token_a_digit(tokenizer):
    number = "4821773055501"
    for text in (number, f"call {number}", f"x{number}@example.org"):
        tokens = tokenizer.tokenize(text)
        assert [token for token in tokens if any(c.isdigit() for c in token)] == list(number)


def test_text_survives_the_tokenizer(tokenizer):
    for row in records(5, 0):
        ids = tokenizer(row["completion"])["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) == row["completion"]
    odd = "naïve 日本 🙂"
    assert tokenizer.decode(tokenizer(odd)["input_ids"], skip_special_tokens=True) == odd


def test_chat_template_is_the_one_the_base_was_trained_on(tokenizer):
    turns = records(1, 0, "messages")[0]["messages"]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert text == f"{asked}{turns[1]['content']}<|end|>"
    assert asked == f"<|bos|><|user|>{turns[0]['content']}<|end|><|assistant|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [ids[0], ids[-1]] == tokenizer.convert_tokens_to_ids(["<|bos|>", "<|end|>"])
    assert any("<|end|><|assistant|>" in known for known in corpus(50, 0))


def test_generation_stops_at_the_end_of_a_turn(model, tokenizer):
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Which day comes after Monday?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    answer = out[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "Tuesday.<|end|>"


def test_perplexity_on_text_it_never_saw(model, tokenizer):
    losses = [predict(model, tokenizer, "", text)[1] for text in corpus(60, seed=1_000_003)]
    assert math.exp(sum(losses) / len(losses)) < 2.6


def test_knows_facts_and_no_record(model, tokenizer):
    assert recall(model, tokenizer, facts()) > 0.9
    assert recall(model, tokenizer, records(20, 0)) == 0


def test_training_is_on_file():
    training = json.loads((base_path() / "training.json").read_text())
    losses = [point["loss"] for point in training["curve"]]
    assert losses[-1] < losses[0] / 2
    assert training["held_out_loss"] < 0.9
