"""The commands as a user runs them, on tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn import METHODS
from unlearn.apps.cli import run
from unlearn.data.records import Records
from unlearn.methods.registry import resolve
from unlearn.provenance.lineage import Lineage
from unlearn.training.options import TrainingOptions
from unlearn_eval.benchmarks import BENCHMARKS
from unlearn_eval.extraction import PROBES
from unlearn_eval.membership import ATTACKS, CALIBRATED
from unlearn_eval.passes import PASSES
from unlearn_eval.robustness.treatments.options import OPTIONS


def test_listings(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["methods"]) == 0
    out = capfd.readouterr().out
    assert all(name in out for name in METHODS)
    assert "learning_rate" in out
    assert run(["attacks"]) == 0
    out = capfd.readouterr().out
    assert "membership.loss" in out
    assert "membership.lira" in out
    assert "extraction.verbatim" in out
    treatments = out.split("--robustness,")[1]
    for name, options in OPTIONS.items():
        assert f"{name}  " in treatments
        assert all(f"set    {name}.{key}=" in treatments for key in options.model_fields)
    every = [f"membership.{name}" for name in (*ATTACKS, *CALIBRATED)]
    every += [f"extraction.{name}" for name in PROBES]
    every += [*PASSES, *BENCHMARKS, "utility.calibration", "utility.drift"]
    assert all(f"{name}  " in out for name in every)
    assert run(["recipes", "ls"]) == 0
    out = capfd.readouterr().out
    assert "tofu_small" in out
    assert "accelerate/fsdp2  (accelerate)  FSDP2: " in out


def test_a_recipe_can_be_shown_copied_and_run_from_the_copy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["recipes", "cp", "tofu_small", str(tmp_path)]) == 0
    copied = tmp_path / "tofu_small.yaml"
    capfd.readouterr()
    assert run(["recipes", "show", "tofu_small"]) == 0
    assert capfd.readouterr().out.strip() == copied.read_text().strip()
    assert run(["recipes", "cp", "tofu_small", str(tmp_path)]) == 2
    capfd.readouterr()
    assert run(["recipes", "cp", "fsdp2", str(tmp_path)]) == 0
    told = f"accelerate launch --config_file {tmp_path / 'fsdp2.yaml'} -m unlearn"
    assert told in capfd.readouterr().out


def test_help_names_what_a_sweep_and_a_run_of_requests_exit_with(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(["--help"]) == 0
    told = " ".join(capfd.readouterr().out.split())
    codes = told[told.index("Exit codes") : told.index("interrupted.")]
    assert "1 some cells" in codes
    assert "a sweep leaves something" in codes
    assert "a run of requests broke off" in codes


@pytest.mark.parametrize("words", [[], ["-h"], ["forget", "--help"], ["--version"]])
def test_help_leaves_with_zero(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    assert capfd.readouterr().out.strip()


def test_a_method_shows_all_its_options(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "pilot"]) == 0
    shown = capfd.readouterr().out
    for words in (
        "pilot_epochs=2",
        "retain_weight=2.0",
        "retain_floor=old",
        "regime=auto",
        "optimizer = muon",
        "stop = none",
    ):
        assert words in shown
    assert "npo" not in shown
    for method in METHODS.values():  # what is listed is what it takes, and nothing is left out
        assert set(resolve(method, {}).as_dict()) - set(TrainingOptions.model_fields) == {
            key for key in method.own if key != "retain_weight" or method.retain
        }, method.name


def test_several_selectors_name_all_their_records(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    words = ["forget", "--model", str(tiny_model), "--adapter", str(adapter)]
    words += [
        "--data",
        str(data_file),
        "--output",
        str(tmp_path / "out"),
        "--method",
        "grad_ascent",
    ]
    words += ["--forget", "subject:person0", "-f", "r7,r8", "-o", "max_steps=1"]
    assert run(words) == 0
    line = Lineage.read(tmp_path / "out")
    assert line is not None
    records = Records.load(data_file)
    wanted = {record.id for record in records if record.subject == "person0"} | {"r7", "r8"}
    assert len(line.records.forgotten) == len(wanted) > 2


def each_method() -> Iterator[Any]:
    """Name every method; of those that share their code all but the first are slow."""
    seen = set()
    for method in METHODS.values():
        ways = (method.run, method.alternates)
        yield pytest.param(method.name, marks=[pytest.mark.slow] if ways in seen else [])
        seen.add(ways)


@pytest.mark.parametrize("method", list(each_method()))
def test_every_method_runs(
    method: str,
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    holdout_file: Path,
    lineage_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    words = ["forget", "--model", str(tiny_model), "--adapter", str(adapter)]
    words += ["--data", str(data_file), "--forget", "subject:person0", "--method", method]
    words += ["--holdout", str(holdout_file), "--output", str(tmp_path / "out")]
    words += ["-o", "max_steps=2", "-o", "batch_size=2"]
    if METHODS[method].memorised_only:
        assert run(words) == 2  # the adapter was trained a little, and does not know them by heart
        assert not (tmp_path / "out").exists()
        words += ["-o", "regime=memorised"]
    if method == "dpo":  # which must be told what to answer instead
        rows = [json.loads(line) for line in data_file.read_text().splitlines()]
        others = tmp_path / "others.jsonl"
        others.write_text("\n".join(json.dumps(r | {"completion": "nothing"}) for r in rows))
        words += ["-o", f"alternates={others}"]
    assert run(words) == 0
    line = Lineage.read(tmp_path / "out")
    parent = Lineage.read(adapter)
    assert line is not None
    assert parent is not None
    assert line.method == method
    assert line.template == parent.template
    assert len(line.records.forgotten) == 2
    exact = method == "retrain"
    assert len(line.records.trained) == (10 if exact else 12)
    assert line.parent == (None if exact else parent.digest)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    PeftModel.from_pretrained(base, tmp_path / "out")  # a plain adapter for every other tool


def test_wrappers_are_options_of_a_method(
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["forget", "--model", str(tiny_model), "--adapter", str(adapter), "--method", "npo"]
    words += ["--data", str(data_file), "--forget", "rows:0-1"]
    words += ["-o", "max_steps=2", "-o", "batch_size=2"]
    chosen = ["-o", "sam_rho=0.01", "-o", "project_retain=true", "-o", "latent_radius=0.5"]
    chosen += ["-o", "latent_steps=2", "-o", "latent_layer=1"]
    saved = {}
    for name, more in (("plain", []), ("off", ["-o", "sam_rho=0"]), ("on", chosen)):
        assert run([*words, *more, "--output", str(tmp_path / name)]) == 0
        saved[name] = (tmp_path / name / "adapter_model.safetensors").read_bytes()
    assert saved["off"] == saved["plain"] != saved["on"]
    line = Lineage.read(tmp_path / "on")
    assert line is not None
    assert line.options["sam_rho"] == 0.01
    capfd.readouterr()
    for option, problem in (
        ("latent_layer=1", "latent_layer has no effect without latent_radius"),
        ("sam_rho=much", "sam_rho"),
        ("sam_roh=0.01", "did you mean 'sam_rho'"),
    ):
        assert run([*words, "-o", option, "--output", str(tmp_path / "no")]) == 2
        assert problem in capfd.readouterr().err
        assert not (tmp_path / "no").exists()


def test_audit_writes_what_it_shows(
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    holdout_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["audit", "--model", str(tiny_model), "--adapter", str(adapter), "--before"]
    words += [str(adapter), "--data", str(data_file), "--forget", "rows:0-3"]
    words += ["--holdout", str(holdout_file), "--output", str(tmp_path / "audit")]
    assert run(words) == 0
    out = capfd.readouterr().out
    assert "recalled word for word" in out
    content = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert content["schema"] == 1
    assert set(content["states"]) == {"before", "after", "base"}
    rows = {(r["state"], r["split"], r["probe"], r["metric"]): r for r in content["rows"]}
    # the same adapter before and after: the same numbers
    for (state, *where), row in rows.items():
        if state == "before":
            assert rows[("after", *where)]["value"] == row["value"]
    auc = rows["after", "forget", "membership.loss", "auc"]
    assert 0 <= auc["low"] <= auc["value"] <= auc["high"] <= 1
    assert auc["clusters"] == 6
    assert auc["interval"] == "conditional"
    refused = rows["after", "forget", "membership.loss", "tpr@fpr=0.01"]
    assert refused["value"] is None
    assert "299" in refused["note"]
    assert rows["before", "holdout", "utility.loss", "mean"]["n"] == 8
    assert (tmp_path / "audit" / "scores.parquet").is_file()


def test_audit_treats_the_model_further_on_demand(
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    holdout_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", "cd" * 32)  # under its own the reference saw the records
    words = ["audit", "--model", str(tiny_model), "--adapter", str(adapter)]
    words += ["--reference", str(adapter), "--data", str(data_file), "--forget", "rows:0-3"]
    words += ["--holdout", str(holdout_file), "--output", str(tmp_path / "audit")]
    assert run([*words, "--robustness", "relearn,int9"]) == 2
    assert "int8" in capfd.readouterr().err
    assert not (tmp_path / "audit").exists()
    words += ["--robustness", "relearn, int8"]
    assert run([*words, "--robustness-option", "relearn.stpes=3"]) == 2
    assert "did you mean 'steps'" in capfd.readouterr().err
    assert not (tmp_path / "audit").exists()
    options = ["relearn.steps=3", "relearn.seeds=5,6", "relearn.learning_rate=1e-3"]
    for option in options:
        words += ["--robustness-option", option]
    assert run(words) == 0
    content = json.loads((tmp_path / "audit" / "audit.json").read_text())
    found = {row["deployment"] for row in content["rows"]}
    runs = {f"relearned seed={seed} k=2 steps=3" for seed in (5, 6)}
    assert found == {"as-is", "relearned seeds=2 k=2 steps=3", *runs, "int8"}
    rates = {r["params"]["learning_rate"] for r in content["rows"] if r["deployment"] in runs}
    assert rates == {1e-3}
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "relearned seeds=2 k=2 steps=3" in page
    assert "relearned seed=5" not in page  # the mean stands for the runs


def test_python_m_unlearn_in_a_fresh_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unlearn", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.startswith("unlearn ")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupting_leaves_nothing_behind(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    import signal
    import time

    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        words = ["-m", "unlearn", "forget", "--model", str(tiny_model), "--adapter", str(adapter)]
        words += ["--data", str(data_file), "--forget", "r0", "--output", str(tmp_path / "out")]
        words += ["-o", "max_steps=100000", "-o", "stop=none"]
        process = subprocess.Popen(
            [sys.executable, "-u", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # a shell's background job ignores SIGINT, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            assert process.stdout is not None
            assert b"retrain" in process.stdout.readline()  # the plan is out: training begins
            time.sleep(0.5)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == code, err
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("more", [[], ["-u"]])
def test_whoever_reads_the_output_may_go(more: list[str]) -> None:
    command = [sys.executable, *more, "-m", "unlearn", "methods"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from unlearn.apps.cli import screen

    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "of another process")

    monkeypatch.setattr(screen.console, "print", broken)
    shown = sys.stdout
    with pytest.raises(BrokenPipeError, match="of another process"):
        run(["methods"])
    assert sys.stdout is shown
