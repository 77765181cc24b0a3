"""A base quantised on load, on a CPU: trained on, forgotten from, audited, replayed, saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("bitsandbytes")

from unlearn.apps.cli import run
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import encode
from unlearn.errors import ModelError
from unlearn.model import number_format
from unlearn.model.opening import Opening
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState, new_adapter, open_model
from unlearn.provenance.environment import quantised
from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn.training.fitting import record_losses
from unlearn_eval.scores.cache import setting

QUICK = ["-o", "learning_rate=1e-2", "-o", "max_steps=4", "-o", "batch_size=4"]
FORM = "nf4 in blocks of 64, computed in float32, bitsandbytes 0.50"
IDS = torch.arange(5, 25)[None]


def logits(state: ModelState) -> torch.Tensor:
    with torch.no_grad():
        return state.model(IDS).logits


@pytest.fixture(scope="module")
def folders(
    tiny_model: Path, data_file: Path, holdout_file: Path, lineage_key: str,
    tmp_path_factory: pytest.TempPathFactory, undrawn: None,
) -> Path:  # fmt: skip
    """What finetune, forget (by retrain and NPO), audit and replay made with `--load-in-4bit`."""
    out = tmp_path_factory.mktemp("quantised")
    base = ["--model", str(tiny_model), "--data", str(data_file), "--load-in-4bit"]
    on = ["--adapter", str(out / "tuned"), "--forget", "r0,r1,r2"]
    commands = [
        ["finetune", *base, *QUICK, "--output", str(out / "tuned")],
        ["forget", *base, *on, "--method", "retrain", "--output", str(out / "retrain")],
        ["forget", *base, *on, *QUICK, "--method", "npo", "--output", str(out / "npo")],
        ["audit", *base, "--before", str(out / "tuned"), "--adapter", str(out / "npo"),
         "--reference", str(out / "retrain"), "--forget", "r0,r1,r2",
         "--holdout", str(holdout_file), "--no-cache", "--output", str(out / "audit")],
        ["replay", str(out / "retrain"), "--model", str(tiny_model), "--data", str(data_file),
         "--output", str(out / "replayed")],
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        for words in commands:
            assert run(words) == 0, words
    return out


@pytest.mark.slow
def test_lineages_name_the_form_and_a_replay_gives_the_same_bits(
    folders: Path, tiny_model: Path
) -> None:
    for name in ("tuned", "retrain", "npo"):
        line = Lineage.read(folders / name)
        assert line is not None
        assert line.environment["4-bit"].startswith(FORM)
        assert line.base.digest == weights_digest(tiny_model)  # of the base as it came
        assert line.digest == weights_digest(folders / name)
    found = json.loads((folders / "replayed" / "replay.json").read_text())
    assert (found["outcome"], found["kind"]) == ("PASS", "exact")


@pytest.mark.slow
def test_an_adapter_trained_so_is_plain_peft(folders: Path, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    def plain(**more: Any) -> torch.Tensor:
        net = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, **more)
        number_format.keep_codes(net)  # bitsandbytes packs no matrix of 32 columns
        with torch.no_grad():
            return PeftModel.from_pretrained(net, folders / "npo").eval()(IDS).logits

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    ours = logits(open_model(tiny_model, folders / "npo", device="cpu", load_in_4bit=True))
    assert torch.equal(plain(quantization_config=config, device_map={"": "cpu"}), ours)
    whole = logits(open_model(tiny_model, folders / "npo", device="cpu"))
    assert torch.equal(plain(), whole)
    assert not torch.allclose(ours, whole, atol=1e-2)  # the form matters


@pytest.mark.slow
def test_an_audit_scores_the_form_that_it_opened(
    folders: Path, tiny_model: Path, data_file: Path
) -> None:
    rows = json.loads((folders / "audit" / "audit.json").read_text())["rows"]
    (audited,) = [
        row["value"] for row in rows
        if (row["state"], row["split"], row["probe"]) == ("after", "retain", "utility.loss")
    ]  # fmt: skip

    def loss(**more: Any) -> float:
        state = open_model(tiny_model, folders / "npo", device="cpu", **more)
        records = encode(Records.load(data_file), state.tokenizer, Template("qa"), 128)[3:]
        scored = score_examples(state.model, state.head, records)
        return float(record_losses(*scored).mean())

    assert loss(load_in_4bit=True) == pytest.approx(audited, abs=1e-5)
    assert loss() != pytest.approx(audited, abs=1e-2)


def test_what_is_quantised_is_less_and_is_told_apart(tiny_model: Path) -> None:
    whole, four = (open_model(tiny_model, device="cpu", load_in_4bit=on) for on in (False, True))
    assert quantised(whole.model) is None
    assert str(quantised(four.model)).startswith(FORM)
    name = "model.layers.0.mlp.up_proj.weight"
    sizes = [
        p.numel() * p.element_size() for s in (whole, four) for n, p in s.model.named_parameters()
        if n == name
    ]  # fmt: skip
    assert sizes[0] == 8 * sizes[1]  # 4 bits for 32
    tuned = new_adapter(four, {"r": 2}, seed=0)
    assert str(quantised(tuned.model)).startswith(FORM)
    opening = Opening(device="cpu", load_in_4bit=True)
    assert setting(tuned, opening) != setting(whole, Opening(device="cpu"))
    halved = open_model(tiny_model, device="cpu", load_in_4bit=True, dtype="bfloat16")
    assert "computed in bfloat16" in str(quantised(halved.model))
    assert setting(halved, opening) != setting(tuned, opening)


def test_a_look_at_the_model_changes_no_code_and_no_scale(tiny_model: Path) -> None:
    """Also on CPUs where bitsandbytes would pack both anew, and round the scales."""
    state = open_model(tiny_model, device="cpu", load_in_4bit=True)
    layers = [m for m in state.model.modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    assert len(layers) == 14
    assert not any(m.support_avx512bf16_for_cpu for m in layers)
    before = [(m.weight.clone(), m.weight.quant_state.absmax.clone()) for m in layers]
    logits(state)
    for layer, (codes, scales) in zip(layers, before, strict=True):
        assert torch.equal(layer.weight, codes)
        assert torch.equal(layer.weight.quant_state.absmax, scales)


def test_what_cannot_be_quantised_is_refused(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="does not train: train an adapter on it"):
        open_model(tiny_model, device="cpu", load_in_4bit=True, trainable=True)
    with pytest.raises(ModelError, match="a CPU or with CUDA, not on meta"):
        number_format.nf4(torch.device("meta"), torch.float32)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="bitsandbytes is not installed"):
        open_model(tiny_model, device="cpu", load_in_4bit=True)
