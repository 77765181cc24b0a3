from __future__ import annotations

import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from unlearn.apps.demo import base_path, train_base
from unlearn.apps.demo.generator import corpus
from unlearn.apps.demo.train_base import main, train_tokenizer


def test_script_writes_a_model_folder(tmp_path, monkeypatch):
    # texts for three steps are enough to learn merges from and to be held out, too
    monkeypatch.setattr(train_base, "corpus", lambda n, seed: corpus(min(n, 192), seed))
    main(["--output", str(tmp_path), "--steps", "3", "--seed", "5"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    assert model.dtype == torch.float32
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == model.config.vocab_size
    training = json.loads((tmp_path / "training.json").read_text())
    assert [point["step"] for point in training["curve"]] == [1, 2, 3]
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in base_path().iterdir()}


def test_digits_never_merge():
    tokenizer = train_tokenizer(iter(["1234 1234 1234 abc abc"] * 50))
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert tokenizer.tokenize(" abc") == ["Ġabc"]
