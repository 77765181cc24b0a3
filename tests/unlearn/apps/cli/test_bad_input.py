"""Whatever is wrong with the input: one clear line on stderr, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from unlearn.apps.cli import run
from unlearn.data.records import Records
from unlearn.provenance import suppression


class Files(NamedTuple):
    """Everything a good command needs."""

    model: Path
    adapter: Path
    data: Path
    holdout: Path
    work: Path


@pytest.fixture
def files(
    tiny_model: Path, adapter: Path, data_file: Path, holdout_file: Path, tmp_path: Path
) -> Files:
    return Files(tiny_model, adapter, data_file, holdout_file, tmp_path)


def forget(files: Files, *more: str, **changes: str | Path) -> list[str]:
    """A good `forget` command, with some of its arguments changed."""
    words = {
        "model": files.model,
        "adapter": files.adapter,
        "data": files.data,
        "forget": "r0,r1",
        "output": files.work / "out",
        **changes,
    }
    given = [w for k, v in words.items() if v != "" for w in (f"--{k}", str(v))]
    return ["forget", *given, "-o", "max_steps=1", "-o", "batch_size=2", *more]


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def without_weights(f: Files) -> list[str]:
    bad = copy(f.adapter, f.work / "bad")
    (bad / "adapter_model.safetensors").unlink()
    return forget(f, adapter=bad)


def pickle_only(f: Files) -> list[str]:
    bad = copy(f.adapter, f.work / "bad")
    (bad / "adapter_model.safetensors").rename(bad / "adapter_model.bin")
    return forget(f, adapter=bad)


def pickle_model(f: Files) -> list[str]:
    bad = copy(f.model, f.work / "bad")
    (bad / "model.safetensors").rename(bad / "pytorch_model.bin")
    return forget(f, model=bad)


def missing_weight(f: Files) -> list[str]:
    """Transformers would make the lost weight up and go on."""
    bad = copy(f.model, f.work / "bad")
    tensors = load_file(bad / "model.safetensors")
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    return forget(f, model=bad)


def cut_off(f: Files) -> list[str]:
    bad = copy(f.model, f.work / "bad")
    file = bad / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    return forget(f, model=bad)


def nan_weights(f: Files) -> list[str]:
    bad = copy(f.adapter, f.work / "bad")
    tensors = load_file(bad / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, bad / "adapter_model.safetensors")
    return forget(f, adapter=bad)


def other_base(f: Files) -> list[str]:
    bad = copy(f.model, f.work / "bad")
    tensors = {k: v + 1 for k, v in load_file(bad / "model.safetensors").items()}
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    return forget(f, model=bad)


def prompt_tuning(f: Files) -> list[str]:
    bad = copy(f.adapter, f.work / "bad")
    config = json.loads((bad / "adapter_config.json").read_text())
    (bad / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PROMPT_TUNING"}))
    return forget(f, adapter=bad)


def full_output(f: Files) -> list[str]:
    (f.work / "out").mkdir()
    (f.work / "out" / "precious").write_text("x")
    return forget(f)


def suppressed(f: Files) -> list[str]:
    suppression.suppress(Records.load(f.data).select("r3"), "test")
    return [
        "finetune",
        "--model",
        str(f.model),
        "--data",
        str(f.data),
        "--output",
        str(f.work / "o"),
    ]


def no_lineage_retrain(f: Files) -> list[str]:
    bare = copy(f.adapter, f.work / "bare")
    for name in ("lineage.json", "README.md"):  # its card tells how it was trained, too
        (bare / name).unlink()
    return forget(f, "--method", "retrain", "--template", "qa", adapter=bare).copy()


CASES: dict[str, tuple[Callable[[Files], list[str]], str]] = {
    "missing data": (lambda f: forget(f, data=f.work / "no.jsonl"), "no.jsonl: no such file"),
    "empty data": (lambda f: forget(f, data=lines(f.work / "d.jsonl")), "no records in it"),
    "malformed line": (
        lambda f: forget(f, data=lines(f.work / "d.jsonl", {"text": "a"}, '{"text": ')),
        "d.jsonl, line 2: not valid JSON",
    ),
    "duplicate ids": (
        lambda f: forget(
            f, data=lines(f.work / "d.jsonl", {"id": 1, "text": "a"}, {"id": 1, "text": "b"})
        ),
        "line 2: the id '1' was given before",
    ),
    "unknown ids": (lambda f: forget(f, forget="r0,r111"), "no record 'r111' (did you mean 'r11'"),
    "another command's selector": (
        lambda f: forget(f, forget="contains:Elm"),
        "write id1,id2 | @file | subject:NAME | rows:180-199",
    ),
    "one of several is unknown": (
        lambda f: forget(f, "--forget", "r111"),
        "has no record 'r111'",
    ),
    "all records": (lambda f: forget(f, forget="rows:0-11"), "names every record of --data"),
    "no retain left": (
        lambda f: forget(f, "--retain", str(lines(f.work / "r.jsonl"))),
        "no records in it",
    ),
    "target cut away": (
        lambda f: forget(f, "-o", "max_length=5", "--template", "qa"),
        "record 'r0' has",
    ),
    "other base": (other_base, "was trained on another base"),
    "no weights": (without_weights, "no adapter_model.safetensors"),
    "missing weight": (
        missing_weight,
        "1 of its weights are missing, among them model.layers.0.self_attn.q_proj.weight",
    ),
    "weights cut off": (cut_off, "cannot open the model"),
    "no such device": (lambda f: forget(f, "--device", "foo"), "--device foo: there is no such"),
    "pickle adapter": (pickle_only, "only pickled weights"),
    "pickle model": (pickle_model, "only pickled weights"),
    "prompt tuning": (prompt_tuning, "PROMPT_TUNING are not supported"),
    "messages without template": (
        lambda f: forget(
            f,
            data=lines(
                f.work / "d.jsonl",
                *(
                    {
                        "id": f"r{i}",
                        "messages": [
                            {"role": "user", "content": f"a{i}"},
                            {"role": "assistant", "content": "b"},
                        ],
                    }
                    for i in range(3)
                ),
            ),
            template="chat",
        ),
        "no chat template",
    ),
    "nan weights": (nan_weights, "holds NaN or infinity"),
    "full output": (full_output, "pass --overwrite"),
    "unknown method": (lambda f: forget(f, "--method", "nppo"), "did you mean 'npo'"),
    "unknown option": (lambda f: forget(f, "-o", "learning_rat=1"), "'learning_rate'"),
    "an option that no method has": (
        lambda f: forget(f, "--method", "npo", "-o", "lr=1"),
        "unknown option 'lr'; `unlearn methods npo` lists all",
    ),
    "no number": (
        lambda f: forget(f, "--method", "npo", "-o", "beta=x"),
        "method npo: beta must be a number, not 'x'",
    ),
    "wrong value": (lambda f: forget(f, "-o", "epochs=-1"), "epochs: Input should be greater"),
    "no key": (lambda f: forget(f, "-o", "epochs"), "write key=value"),
    "negative seed": (lambda f: forget(f, "--seed", "-1"), "--seed"),
    "unknown recipe": (
        lambda f: ["recipes", "show", "tofu_smal"], "did you mean 'compare/tofu_small'"
    ),
    "unknown recipe key": (
        lambda f: [
            "compare", "tofu_small", "model=m", "data=d", "seedz=[1]", "--output", str(f.work / "o")
        ],
        "unknown option 'seedz' (did you mean 'seeds'",
    ),
    "missing recipe value": (
        lambda f: ["compare", "tofu_small", "--output", str(f.work / "o")],
        "needs model: write model=…",
    ),
    "suppressed": (suppressed, "on the suppression list"),
    "retrain without lineage": (no_lineage_retrain, "-o learning_rate=…"),
    "model is missing": (lambda f: forget(f, model="./nowhere"), "folder ./nowhere does not exist"),
    "model is misspelt": (
        lambda f: forget(f, model=f.model.parent / f"{f.model.name}s"),
        "does not exist (did you mean 'model'",
    ),
    "adapter as model": (lambda f: forget(f, model=f.adapter), "pass its base as --model"),
    "model as adapter": (lambda f: forget(f, adapter=f.model), "it holds a whole model"),
    "base of a full model": (
        lambda f: forget(f, "--method", "kl_to_base", "--template", "qa", adapter=""),
        "needs an adapter",
    ),
    "bad dtype": (lambda f: forget(f, "--dtype", "float8"), "unknown dtype 'float8'"),
    "bad template": (lambda f: forget(f, "--template", "qaa"), "did you mean 'qa'"),
    "holdout was trained on": (
        lambda f: forget(f, "--holdout", str(f.data)),
        "a holdout must be unseen",
    ),
    "missing flag": (lambda f: ["forget", "--model", "m"], "Missing option '--data'"),
    "unknown verb": (lambda f: ["forgt"], "Did you mean 'forget'"),
    "audit reference saw them": (
        lambda f: [
            "audit", "--model", str(f.model), "--adapter", str(f.adapter), "--data", str(f.data),
            "--forget", "r0", "--reference", str(f.adapter), "--output", str(f.work / "out"),
        ],
        "a reference must never have seen them",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input(
    case: str,
    files: Files,
    lineage_key: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if case == "audit reference saw them":  # only the key's owner can read the lineage
        monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    command, message = CASES[case]
    words = command(files)
    before = sorted(p for p in files.work.rglob("*") if "unlearn-home" not in p.parts)
    capfd.readouterr()
    code = run(words)
    err = capfd.readouterr().err
    assert code == 2, err
    shown = [line for line in err.splitlines() if line.startswith("unlearn: ")]
    assert len(shown) == 1, err
    assert message in shown[0]
    assert "Traceback" not in err
    after = sorted(p for p in files.work.rglob("*") if "unlearn-home" not in p.parts)
    assert after == before


def test_a_loss_that_explodes_is_reported(files: Files, capfd: pytest.CaptureFixture[str]) -> None:
    words = forget(files, "-o", "learning_rate=1e30", "-o", "stop=none", "--method", "grad_ascent")
    assert run([*words, "-o", "max_steps=5", "-o", "max_grad_norm=0"]) == 2
    assert "the loss became" in capfd.readouterr().err
    assert not (files.work / "out").exists()


def test_a_tokenizer_without_padding_token_works(
    files: Files, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(files.model).pad_token is None
    assert run(forget(files)) == 0
    assert (files.work / "out" / "adapter_model.safetensors").is_file()
    out = capfd.readouterr().out
    assert "about" in out
    assert "Saved to" in out


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_overwrite_replaces_a_result(files: Files) -> None:
    assert run(forget(files, "--method", "npo")) == 0
    first = (files.work / "out" / "adapter_model.safetensors").read_bytes()
    assert run(forget(files)) == 2
    assert run(forget(files, "--method", "npo", "--overwrite", "--seed", "5")) == 0
    assert (files.work / "out" / "adapter_model.safetensors").read_bytes() != first
