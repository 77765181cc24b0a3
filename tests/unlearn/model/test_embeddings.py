"""Sizes of tokenizer, embedding and adapter are checked on opening; resized adapters work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from unlearn import Records, finetune, forget
from unlearn.errors import ModelError
from unlearn.model.reading import reading_of
from unlearn.model.state import open_model, swap_adapters
from unlearn.runs.references import train_references

QUICK = {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-3, "epochs": 1}
WORDS = ["number", "indeed"]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def tokenizer_of(model: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(WORDS)
    return tokenizer


def resized(model: Path, folder: Path, rows: int | None = None, **config: Any) -> Path:
    """An adapter as PEFT saves it after tokens were added and the base was resized."""
    tokenizer = tokenizer_of(model)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    net.resize_token_embeddings(rows or len(tokenizer), mean_resizing=False)
    torch.manual_seed(0)
    usual: dict[str, Any] = {"r": 3, "target_modules": ["q_proj"]}
    net = get_peft_model(net, LoraConfig(task_type="CAUSAL_LM", **(usual | config)))
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    net.save_pretrained(folder)
    if rows is None:
        tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def plain_logits(model: Path, adapter: Path, rows: int) -> torch.Tensor:
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    net.resize_token_embeddings(rows, mean_resizing=False)
    net = PeftModel.from_pretrained(net, str(adapter)).eval()
    return net(torch.tensor([[0, 40, 50, rows - 1]])).logits


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"trainable_token_indices": [5, 6]},
    ],
    ids=["frozen", "head", "embedding", "saved", "indices"],
)
def test_an_adapter_with_added_tokens_works_as_plain_peft_has_it(
    config: dict[str, Any], tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    adapter = resized(tiny_model, tmp_path / "a", **config)
    state = open_model(tiny_model, adapter)
    rows = len(tokenizer_of(tiny_model))
    with torch.no_grad():
        mine = state.model(torch.tensor([[0, 40, 50, rows - 1]])).logits
    assert torch.allclose(mine, plain_logits(tiny_model, adapter, rows), atol=1e-5)
    assert any("tokens more" in note for note in state.notes)
    # switched off, it is the base as far as the base goes
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(tiny_model)(torch.tensor([[0, 40, 50]])).logits
        with state.reference("base") as (net, _):
            off = net(torch.tensor([[0, 40, 50]])).logits
    assert torch.allclose(off[..., : base.shape[-1]], base, atol=1e-5)
    for method in ("npo", "retrain"):
        result = forget(
            tiny_model,
            data_file,
            "r1",
            tmp_path / method,
            adapter=adapter,
            template="qa",
            method=method,
            options=QUICK,
        )
        shapes = [
            {k: v.shape for k, v in load_file(f / "adapter_model.safetensors").items()}
            for f in (adapter, result.folder)
        ]
        assert shapes[0] == shapes[1]
        again = open_model(tiny_model, result.folder)
        with torch.no_grad():
            mine = again.model(torch.tensor([[0, 40, 50, rows - 1]])).logits
        assert torch.allclose(mine, plain_logits(tiny_model, result.folder, rows), atol=1e-5)
        assert len(AutoTokenizer.from_pretrained(result.folder)) == rows
        assert f"resize_token_embeddings({rows})" in (result.folder / "README.md").read_text()


def test_references_have_the_added_tokens_too(
    tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    adapter = resized(tiny_model, tmp_path / "a")
    done = train_references(
        tiny_model,
        data_file,
        tmp_path / "refs",
        forget="r1",
        like=adapter,
        count=2,
        template="qa",
        options=QUICK,
    )
    states = open_model(tiny_model, adapter)
    for folder in done.folders:
        states = swap_adapters(states, [folder])
        assert states.model.get_input_embeddings().weight.shape[0] == len(states.tokenizer)


def test_a_tokenizer_beyond_the_embedding_is_refused_with_what_to_do(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    tokenizer_of(model).save_pretrained(model)
    with pytest.raises(ModelError, match=r"'indeed'.*resize_token_embeddings"):
        open_model(model)
    with pytest.raises(ModelError, match="resize_token_embeddings"):
        open_model(model, adapter)
    shutil.copytree(adapter, short := tmp_path / "short")
    tokenizer_of(tiny_model).save_pretrained(short)
    with pytest.raises(ModelError, match=r"short.*resize_token_embeddings"):
        open_model(tiny_model, short)
    # an adapter that ships the embeddings fits the very same base
    assert open_model(model, resized(tiny_model, tmp_path / "a")).notes


def with_padding(model: Path, folder: Path, *more: str) -> Path:
    """A copy of a model or adapter whose tokenizer pads with a token that has no embedding."""
    if not folder.exists():
        shutil.copytree(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(list(more))
    tokenizer.save_pretrained(folder)
    return folder


TEXTS = ["Who is [PAD]?", "Ann.", "[PAD][PAD] and more"]


def test_a_padding_token_without_embedding_is_left_out(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    model = with_padding(tiny_model, tmp_path / "model")
    plain = AutoTokenizer.from_pretrained(tiny_model)
    own = tmp_path / "own"
    shutil.copytree(adapter, own)
    plain.save_pretrained(own)
    with_padding(own, own)
    for state in (open_model(model), open_model(model, adapter), open_model(tiny_model, own)):
        assert any("padding token '[PAD]'" in note for note in state.notes)
        batch = state.tokenizer(TEXTS, padding=True, return_tensors="pt")
        assert batch["input_ids"].max() < state.model.get_input_embeddings().weight.shape[0]
        assert torch.isfinite(state.model(**batch).logits).all()
        alone = [plain(text)["input_ids"] for text in TEXTS]
        assert state.tokenizer(TEXTS)["input_ids"] == alone
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    rows[1]["completion"] = "It is [PAD]."
    data = Records.from_rows(rows)
    for kind, folder in (("base", adapter), ("adapter", own)):
        base = model if kind == "base" else tiny_model
        result = forget(
            base, data, "r0,r1", tmp_path / kind, adapter=folder, method="npo", options=QUICK
        )
        assert open_model(base, result.folder).tokenizer(TEXTS)["input_ids"] == alone
    full = finetune(model, data, tmp_path / "full", full=True, options=QUICK)
    saved = AutoTokenizer.from_pretrained(full.folder)
    assert saved.get_vocab() == plain.get_vocab()
    assert saved.pad_token == saved.eos_token
    assert open_model(full.folder).notes == ()


def test_a_padding_token_that_does_more_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="resize_token_embeddings"):
        open_model(with_padding(tiny_model, tmp_path / "two", "word"))
    model = with_padding(tiny_model, tmp_path / "ends")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.eos_token = "[PAD]"
    tokenizer.save_pretrained(model)
    with pytest.raises(ModelError, match="resize_token_embeddings"):
        open_model(model)


def test_states_whose_tokenizers_differ_in_unused_padding_read_alike(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(adapter, own)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(own)
    with_padding(own, own)
    state, plain = open_model(tiny_model, own), open_model(tiny_model, adapter)
    assert state.reading is not None
    assert state.base_reading is not None
    assert plain.reading is not None
    shipped = reading_of(state.base_reading, tiny_model, [own])
    for mine in (state.reading, plain.reading):
        for other in (shipped, state.reading, plain.reading, state.base_reading):
            assert mine.differs(other) is None


@pytest.mark.parametrize("rows", [350, 400])
def test_padding_is_no_fault_and_an_adapter_may_have_another(
    rows: int, tiny_model: Path, tmp_path: Path
) -> None:
    net = AutoModelForCausalLM.from_pretrained(tiny_model)
    net.resize_token_embeddings(384, mean_resizing=False)
    net.save_pretrained(model := tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(model)
    assert open_model(model).notes == ()
    adapter = resized(model, tmp_path / "a", rows=rows)
    state = open_model(model, adapter)
    assert state.model.get_input_embeddings().weight.shape[0] == rows
    assert f"embeddings for {rows} tokens, the base for 384" in state.notes[0]
    with pytest.raises(ModelError, match=f"made for 384 tokens.* for {rows}"):
        swap_adapters(state, [resized(model, tmp_path / "b", rows=384)])


def test_an_adapter_with_fewer_rows_than_tokens_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    rows = len(AutoTokenizer.from_pretrained(tiny_model)) - 2
    adapter = resized(tiny_model, tmp_path / "a", rows=rows)
    with pytest.raises(ModelError, match=f"has {rows} rows only"):
        open_model(tiny_model, adapter)


def test_an_adapter_of_another_base_still_says_so(tiny_model: Path, tmp_path: Path) -> None:
    adapter = resized(tiny_model, tmp_path / "a")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    (embedding,) = [k for k in tensors if k.endswith("embed_tokens.weight")]
    save_file({**tensors, embedding: tensors[embedding] * 1.01}, file)
    with pytest.raises(ModelError, match="another base"):
        open_model(tiny_model, adapter)
    wide = {k: torch.cat([v, v], -1) if "embed" in k else v for k, v in tensors.items()}
    save_file(wide, file)
    with pytest.raises(ModelError, match=r"another base|has .* rows only"):
        open_model(tiny_model, adapter)
    other = {k: torch.cat([v, v], -1) if "lora_A" in k else v for k, v in tensors.items()}
    save_file(other, file)
    with pytest.raises(ModelError, match="another base"):
        open_model(tiny_model, adapter)


def test_embeddings_of_the_factors_alone_do_not_do(tiny_model: Path, tmp_path: Path) -> None:
    adapter = resized(tiny_model, tmp_path / "a", target_modules=["lm_head"])
    file = adapter / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if ".lora_" in k}, file)
    assert "lm_head" in json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    with pytest.raises(ModelError, match="ships no embeddings"):
        open_model(tiny_model, adapter)
