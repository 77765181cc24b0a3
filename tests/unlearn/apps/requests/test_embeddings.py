"""Vectors of texts, and the records that they find."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5Model,
)

from unlearn.apps.requests.embeddings import Encoder, alike_in_meaning
from unlearn.apps.requests.locate import locate
from unlearn.data.records import Record
from unlearn.errors import ModelError, OptionError

TEXTS = ["one", "Ann lives in a town by the sea", "a", "Bob has two sisters and a dog", "one"]


def test_a_vector_is_the_mean_of_the_hidden_states_of_its_own_tokens(tiny_model: Path) -> None:
    """Each text alone, without padding, through the library, is the oracle."""
    net = AutoModel.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    expected = []
    for text in TEXTS:
        with torch.inference_mode():
            hidden = net(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        mean = hidden.double().mean(0)
        expected.append((mean / mean.norm()).numpy())
    found = Encoder(tiny_model)(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)
    np.testing.assert_array_equal(found[0], found[4])


def test_each_text_is_encoded_once_and_told(tiny_model: Path) -> None:
    told: list[tuple[int, int]] = []
    encoder = Encoder(tiny_model, progress=lambda done, total: told.append((done, total)))
    many = [f"text {i}" for i in range(40)]
    first = encoder(many)
    assert told == [(32, 40), (40, 40)]
    np.testing.assert_array_equal(encoder(many[::-1]), first[::-1])
    assert len(told) == 2
    assert encoder([]).shape == (0, first.shape[1])


def test_limits_of_length(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(tiny_model)
    vectors = encoder(["word " * 10_000, "word " * 20_000])
    np.testing.assert_array_equal(vectors[0], vectors[1])  # both cut to the same
    assert np.linalg.norm(vectors[0]) == pytest.approx(1.0)
    tokens = {"some": [5, 6], "": []}
    monkeypatch.setattr(
        encoder, "_tokenizer", lambda texts, **_: {"input_ids": [tokens[t] for t in texts]}
    )
    some, none = encoder(["some", ""])
    assert np.linalg.norm(some) == pytest.approx(1.0)
    assert not none.any()  # no token: like nothing, and never NaN
    assert not encoder([""]).any()


def test_pairs_by_hand() -> None:
    """With vectors of our own: cosines 1, .6, −1 and 0 to the first record."""
    known = {
        "x": (1.0, 0.0),
        "same": (1.0, 0.0),
        "near": (0.6, 0.8),
        "far": (-1.0, 0.0),
        "": (0.0, 0.0),
    }

    def encoder(texts: list[str]) -> np.ndarray:
        return np.array([known[text] for text in texts], dtype=np.float32)

    gone = [Record("a", text="x"), Record("b", text="far")]
    rest = [Record(text or "empty", text=text) for text in ("far", "near", "same", "")]
    found = alike_in_meaning(gone, rest, encoder, 0.6)  # type: ignore[arg-type]
    assert [(i, j) for i, j, _ in found] == [("a", "near"), ("a", "same"), ("b", "far")]
    assert [round(cosine, 6) for *_, cosine in found] == [0.6, 1.0, 1.0]
    assert alike_in_meaning(gone, rest, encoder, 1.0) == [found[1], found[2]]  # type: ignore[arg-type]
    assert alike_in_meaning([], rest, encoder) == []  # type: ignore[arg-type]
    for threshold in (0.0, -0.5, 1.5):
        with pytest.raises(OptionError, match="above 0 and at most 1"):
            alike_in_meaning(gone, rest, encoder, threshold)  # type: ignore[arg-type]


def test_a_request_finds_copies_first_and_then_what_says_the_same(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "Ann lives in Málaga, by the sea."},
        {"id": "copy", "text": "Ann lives in Málaga, by the sea!"},
        {"id": "told", "text": "Her home is a Spanish port."},
        {"id": "other", "text": "Bob sells bread."},
    ]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    towards = {"copy": (1.0, 0.0), "told": (0.96, 0.28), "other": (0.0, 1.0), "a": (1.0, 0.0)}
    by_text = {row["text"]: towards[row["id"]] for row in rows}

    def encoder(texts: list[str]) -> np.ndarray:
        return np.array([by_text[text] for text in texts], dtype=np.float32)

    assert [pair.id for pair in locate(str(file), ["a"]).near] == ["copy"]
    found = locate(str(file), ["a"], encoder=encoder, meaning=0.9)  # type: ignore[arg-type]
    assert [(pair.id, pair.by) for pair in found.near] == [("copy", "text"), ("told", "meaning")]
    assert found.near[1].similarity == pytest.approx(0.96)
    alone = locate(str(file), ["a"], near=None, encoder=encoder)  # type: ignore[arg-type]
    assert [(pair.id, pair.by) for pair in alone.near] == [
        ("copy", "meaning"),
        ("told", "meaning"),
    ]
    assert locate(str(file), ["a"], encoder=encoder, include=["told"]).records.ids == ["a", "told"]  # type: ignore[arg-type]


def test_what_is_no_encoder(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        Encoder(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    file = broken / "model.safetensors"
    weights = load_file(file)
    first = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file({k: v for k, v in weights.items() if k != first}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="--device foo: there is no such device here"):
        Encoder(tiny_model, device="foo")
    # transformers would make it up
    with pytest.raises(ModelError, match=rf"1 of its weights are missing, among them {first}"):
        Encoder(broken)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot open the encoder"):
        Encoder(broken)
    (broken / "config.json").write_text('{"model_type": "no such type"}')
    with pytest.raises(ModelError, match="cannot open the encoder"):
        Encoder(broken)


def test_token_vectors_that_are_stored_as_the_head_are_found(
    tmp_path: Path, tiny_model: Path
) -> None:
    tied = tmp_path / "tied"
    net = AutoModelForCausalLM.from_pretrained(tiny_model)
    net.config.tie_word_embeddings = True
    net.tie_weights()
    net.save_pretrained(tied)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tied)
    expected = Encoder(tied)(TEXTS)
    file = tied / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, file, {"format": "pt"})
    np.testing.assert_allclose(Encoder(tied)(TEXTS), expected, atol=1e-6)


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}


@pytest.mark.parametrize(
    ("kind", "config", "encoder"),
    [
        # without a pooler, as trained with a masked head; positions that begin after padding's
        (BertForMaskedLM, BertConfig(intermediate_size=32, vocab_size=512, **SIZES), "bert"),
        (
            RobertaModel,
            RobertaConfig(
                intermediate_size=32, vocab_size=512, max_position_embeddings=34, **SIZES
            ),
            "",
        ),
        (T5Model, T5Config(vocab_size=512, **T5), "encoder"),
        (T5EncoderModel, T5Config(vocab_size=512, **T5), ""),
    ],
)
def test_encoders_of_other_kinds(
    tmp_path: Path, tiny_model: Path, kind: Any, config: Any, encoder: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert len(tokenizer) <= 512
    torch.manual_seed(0)
    net = kind(config).eval()
    net.save_pretrained(tmp_path)
    tokenizer.model_max_length = 10**30  # which says nothing
    tokenizer.save_pretrained(tmp_path)
    with torch.inference_mode():
        ids = torch.tensor([tokenizer(TEXTS[1])["input_ids"]])
        hidden = (getattr(net, encoder) if encoder else net)(ids).last_hidden_state[0]
    mean = hidden.double().mean(0)
    found = Encoder(tmp_path)([*TEXTS, "word " * 1000])
    np.testing.assert_allclose(found[1], (mean / mean.norm()).numpy(), atol=1e-6)
    assert np.isfinite(found).all()
