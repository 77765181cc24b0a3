"""Weights that accelerate's FSDP2 splits over processes: they end as whole ones, or are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from unlearn.errors import OptionError
from unlearn.model.state import ModelState, new_adapter, open_model
from unlearn.processes import check_splitting
from unlearn.recipe import recipe_path
from unlearn.runs.finetuning import finetune
from unlearn.runs.forgetting import forget
from unlearn.training.launched import check_launched, check_split
from unlearn.training.options import TrainingOptions

SCRIPT = Path(__file__).with_name("split.py")
RATE = ["-o", "learning_rate=1e-2", "-o", "max_steps=6", "-o", "batch_size=4"]
ON = ["--forget", "r0,r1,r2,r3"]

# Sums over two parts are the same in any order; the norm that gradients are clipped at is not, and
# AdamW's first steps divide small gradients by their own size. Up to 3e-7 was measured of these.
FAR = 1e-5


def launched(commands: list[list[str]], *number: str, key: str, split: bool) -> str:
    """Run commands in one process, or in two that split the weights; return what they say."""
    launcher = ["-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launcher += ["--config_file", str(recipe_path("accelerate/fsdp2"))]
    done = subprocess.run(
        [sys.executable, *(launcher if split else ()), str(SCRIPT), json.dumps(commands), *number],
        env=os.environ | {"UNLEARN_KEY": key},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def distance(folder: Path, other: Path) -> float:
    """Return ‖a − b‖ ÷ ‖a‖ of the weights in two folders."""
    a, b = (
        {k: v for file in each.glob("*.safetensors") for k, v in load_file(file).items()}
        for each in (folder, other)
    )
    assert a.keys() == b.keys() != set()
    one, two = (torch.cat([w[n].flatten().double() for n in sorted(w)]) for w in (a, b))
    return float((one - two).norm() / one.norm())


@pytest.fixture(scope="module")
def untied(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an output projection of its own, as large models have one."""
    folder = tmp_path_factory.mktemp("untied") / "model"
    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(tiny_model, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def commands(
    tied: Path, adapter: Path, untied: Path, data: Path, one: Path, out: Path
) -> list[list[str]]:
    """Train and forget; forgetting begins with what one process trained."""
    on_tied = ["--model", str(tied), "--data", str(data)]
    on_untied = ["--model", str(untied), "--data", str(data)]
    learned = ["--adapter", str(one / "tuned"), *ON]
    return [
        ["finetune", *on_untied, "--output", str(out / "tuned"), *RATE],
        # the old adapter beside the new one, two batches a step in each process, recomputed
        ["forget", *on_tied, "--adapter", str(adapter), *ON, "--method", "npo", *RATE,
         "-o", "micro_batch_size=1", "-o", "gradient_checkpointing=true",
         "--output", str(out / "npo")],
        # logits of the base, adapters off, through a projection that is a unit by itself
        ["forget", *on_untied, *learned, "--method", "bad_teacher", "--output", str(out / "base"),
         *RATE, "-o", "stop=none"],
        ["forget", *on_untied, *learned, "--method", "rmu", "--output", str(out / "rmu"), *RATE],
        ["finetune", *on_tied, "--full", "--output", str(out / "full"), *RATE],
    ]  # fmt: skip


@pytest.mark.slow
def test_split_weights_end_where_whole_ones_do(
    tiny_model: Path, untied: Path, adapter: Path, data_file: Path, lineage_key: str, tmp_path: Path
) -> None:
    files = (tiny_model, adapter, untied, data_file, tmp_path / "one")
    one = commands(*files, tmp_path / "one")
    for words in one:
        words += [] if "npo" in words else ["-o", "micro_batch_size=2"]
    launched(one, key=lineage_key, split=False)
    launched(commands(*files, tmp_path / "two"), key=lineage_key, split=True)
    for name in ("tuned", "npo", "base", "rmu", "full"):
        assert distance(tmp_path / "one" / name, tmp_path / "two" / name) < FAR, name
        facts = json.loads((tmp_path / "two" / name / "lineage.json").read_text())["environment"]
        assert (facts["processes"], facts["weights split by"]) == (2, "FSDP")
    net, told = AutoModelForCausalLM.from_pretrained(
        tmp_path / "two" / "full", output_loading_info=True
    )
    assert type(net) is LlamaForCausalLM
    assert not told["missing_keys"]
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    plain = PeftModel.from_pretrained(base, tmp_path / "two" / "npo")
    assert all(torch.isfinite(p).all() for p in plain.parameters())


@pytest.mark.slow
def test_split_training_goes_on_from_its_checkpoint(
    untied: Path, data_file: Path, lineage_key: str, tmp_path: Path
) -> None:
    words = ["finetune", "--model", str(untied), "--data", str(data_file), *RATE]
    words += ["-o", "save_steps=100", "--output"]
    names = ("whole", "again", "again")
    ran = [[*words, str(tmp_path / name)] for name in names]
    assert launched(ran, "1", key=lineage_key, split=True).endswith("steps [6, 3, 3]\n")
    assert distance(tmp_path / "whole", tmp_path / "again") == 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    """Set what `accelerate launch` says of FSDP2, and more."""

    def ask(**more: str) -> None:
        for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **more}.items():
            monkeypatch.setenv(name, value)

    return ask


def test_what_would_not_be_split_as_asked_is_refused(asked) -> None:
    check_splitting("cpu")
    asked()
    check_splitting("cuda")
    with pytest.raises(OptionError, match="on CPUs it splits nothing"):
        check_splitting("cpu")
    asked(FSDP_VERSION="1")
    with pytest.raises(OptionError, match="set fsdp_version: 2"):
        check_splitting("cuda")
    asked(FSDP_CPU_RAM_EFFICIENT_LOADING="true")
    with pytest.raises(OptionError, match="fsdp_cpu_ram_efficient_loading only one process"):
        check_splitting("cuda")


def test_accelerate_must_have_split_what_it_was_asked_to_split(asked) -> None:
    plain = SimpleNamespace(
        num_processes=1, is_fsdp2=False, distributed_type=DistributedType.MULTI_GPU
    )
    check_launched(plain)
    asked()
    check_launched(SimpleNamespace(num_processes=1, is_fsdp2=True))
    with pytest.raises(OptionError, match="with FSDP, and set up MULTI_GPU, which does not split"):
        check_launched(plain)


def opened(model: Path, *, targets: list[str]) -> ModelState:
    """Open a model with a fresh adapter."""
    shape = {"r": 2, "lora_alpha": 4, "target_modules": targets}
    return new_adapter(open_model(model), shape, seed=0)


def test_what_needs_whole_weights_is_refused(untied: Path, asked) -> None:
    inner, output = (opened(untied, targets=[name]) for name in ("q_proj", "lm_head"))
    plain = TrainingOptions(learning_rate=1e-3, max_steps=1)
    muon = plain.model_copy(update={"optimizer": "muon"})
    check_split(output, muon)
    asked()
    check_split(inner, plain)
    with pytest.raises(OptionError, match="optimizer=muon needs whole weights"):
        check_split(inner, muon)
    with pytest.raises(OptionError, match="an adapter on the output projection needs whole"):
        check_split(output, plain)
    inner.model.is_loaded_in_4bit = True
    with pytest.raises(OptionError, match="--load-in-4bit needs whole weights"):
        check_split(inner, plain)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("loku", {}, "loku needs whole weights .* use inverted_hinge"),
        ("retrain", {"budget": 0.5}, "a budget below 1 needs whole weights .* budget=1"),
        ("pilot", {"regime": "memorised"}, "optimizer=muon needs whole weights"),
    ],
)
def test_methods_that_need_whole_weights_are_refused(
    method: str, options: dict[str, object], words: str, asked, monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path, adapter: Path, data_file: Path, lineage_key: str, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    monkeypatch.setattr("unlearn.model.folders.check_splitting", lambda device: None)
    asked()
    with pytest.raises(OptionError, match=words):
        forget(tiny_model, data_file, "r0,r1", tmp_path / "out", adapter=adapter, method=method,
               options=options)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_finetuning_refuses_it_before_it_trains(
    asked, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("unlearn.model.folders.check_splitting", lambda device: None)
    asked()
    with pytest.raises(OptionError, match="optimizer=muon needs whole weights"):
        finetune(tiny_model, data_file, tmp_path / "out", options={"optimizer": "muon"})
    assert not (tmp_path / "out").exists()
