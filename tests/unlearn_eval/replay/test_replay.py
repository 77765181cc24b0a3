"""Training again proves a deletion; each way to cheat it comes out as what it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from unlearn.apps.cli import run
from unlearn.errors import LineageError
from unlearn.provenance.environment import fresh_environment
from unlearn.provenance.lineage import Lineage
from unlearn.runs.finetuning import finetune
from unlearn.runs.forgetting import forget
from unlearn.runs.references import train_references
from unlearn.training.kernels import deterministic_kernels
from unlearn_eval.replay.distance import apart_in_weights, otherwise_set, share
from unlearn_eval.replay.result import Replay
from unlearn_eval.replay.run import replay

from .conftest import FORGOTTEN, Again, rewritten

WEIGHTS = "adapter_model.safetensors"


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def finding(result: Replay, what: str) -> tuple[bool | None, str]:
    each = next(each for each in result.findings if each.what == what)
    return each.passed, each.words


def change_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def nudge(tensors: dict[str, Any]) -> None:
    first = sorted(tensors)[0]
    tensors[first] = tensors[first].clone()
    tensors[first].view(-1)[0] += 1e-6


def test_a_retrained_adapter_passes_bit_by_bit(again: Again) -> None:
    result = again()
    assert (result.outcome, result.kind) == ("PASS", "exact")
    assert all(each.passed for each in result.findings)
    assert finding(result, "near-copies")[0] is True
    assert "bit by bit" in finding(result, "weights")[1]
    assert result.environment["differ"] == []
    assert result.environment["here"]["deterministic kernels"] is True
    assert "2 forgotten" in result.words


def test_the_kept_records_alone_suffice(again: Again, data_file: Path, tmp_path: Path) -> None:
    kept = written(tmp_path / "kept.jsonl", rows_of(data_file)[2:])
    result = again(kept)
    assert (result.outcome, result.kind) == ("PASS", "exact")
    assert not any(each.what == "near-copies" for each in result.findings)
    assert any("nearly repeat" in sentence for sentence in result.not_looked_at)


def test_the_result_holds_no_text_of_a_record(again: Again, data_file: Path) -> None:
    text = json.dumps(again().as_dict())
    assert not any(row["completion"] in text for row in rows_of(data_file))


def test_a_reference_and_a_fine_tune_can_be_replayed(
    in_this_process: None, tiny_model: Path, data_file: Path, adapter: Path, tmp_path: Path
) -> None:
    made = train_references(
        tiny_model,
        data_file,
        tmp_path / "references",
        forget=FORGOTTEN,
        count=1,
        like=adapter,
        progress=False,
    )
    for folder in (made.folders[0], adapter):
        result = replay(folder, data_file, quiet=True)
        assert finding(result, "weights")[0] is True
        # nothing is named that should be gone
        assert result.outcome == "INCONCLUSIVE"
        assert finding(result, "forgotten")[0] is None
    result = replay(made.folders[0], data_file, quiet=True, forget=FORGOTTEN)
    assert result.outcome == "PASS"


def test_a_full_fine_tune_can_be_replayed(
    in_this_process: None, tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    options = {"max_steps": 2, "learning_rate": 1e-3}
    finetune(tiny_model, data_file, tmp_path / "full", full=True, options=options, progress=False)
    cleaned = tmp_path / "cleaned"
    model = tmp_path / "full"
    forget(model, data_file, FORGOTTEN, cleaned, method="retrain", progress=False)
    result = replay(cleaned, data_file, quiet=True)
    assert (result.outcome, result.kind) == ("PASS", "exact")


def test_an_approximate_method_cannot_be_replayed(
    again: Again, retrained: Path, data_file: Path
) -> None:
    rewritten(retrained, method="npo", records=trained_on_all(retrained))
    result = again()
    assert result.outcome == "INCONCLUSIVE"
    assert "npo is an approximate method" in result.words
    assert not result.cost


def trained_on_all(folder: Path) -> Any:
    line = Lineage.read(folder)
    assert line is not None
    records = line.records
    return records.model_copy(update={"trained": sorted({*records.trained, *records.forgotten})})


def test_an_adapter_without_a_lineage_is_refused(again: Again, retrained: Path) -> None:
    (retrained / "lineage.json").unlink()
    with pytest.raises(LineageError, match="nothing says how to train it again"):
        again()


# attacks


def test_a_lineage_that_claims_other_data(again: Again, data_file: Path, tmp_path: Path) -> None:
    rows = rows_of(data_file)
    rows[5]["completion"] = "Quite another answer."
    result = again(written(tmp_path / "other.jsonl", rows))
    assert result.outcome == "INCONCLUSIVE"
    assert "1 of the 10 record(s) that the lineage names are not in" in result.words
    assert not result.cost  # nothing was trained


def test_records_in_another_order(again: Again, data_file: Path, tmp_path: Path) -> None:
    result = again(written(tmp_path / "other.jsonl", rows_of(data_file)[::-1]))
    assert result.outcome == "INCONCLUSIVE"
    assert "in another order" in result.words


def test_a_lineage_rewritten_to_claim_other_data(
    again: Again, tiny_model: Path, data_file: Path, retrained: Path, adapter: Path
) -> None:
    line, first = Lineage.read(retrained), Lineage.read(adapter)
    assert line is not None
    assert first is not None
    # the adapter that learned all records, beside the story of one that did not
    shutil.copy(adapter / WEIGHTS, retrained / WEIGHTS)
    rewritten(retrained)
    result = again()
    assert result.outcome == "INCONCLUSIVE"
    assert finding(result, "weights")[0] is False
    assert "nothing rounds otherwise" in result.words
    assert result.distance is None


def test_an_adapter_edited_after_training(again: Again, retrained: Path) -> None:
    change_weights(retrained, nudge)
    result = again()
    assert result.outcome == "INCONCLUSIVE"
    assert "not those that the lineage names" in result.words
    assert not result.cost
    rewritten(retrained)
    result = again()
    assert result.outcome == "INCONCLUSIVE"
    assert "1 of" in finding(result, "weights")[1]
    assert "tensors differ" in finding(result, "weights")[1]


def test_a_scale_edited_after_training(again: Again, retrained: Path) -> None:
    path = retrained / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": 2 * config["lora_alpha"]}))
    result = again()
    assert result.outcome == "INCONCLUSIVE"
    assert finding(result, "weights")[0] is False


def test_a_base_swapped(again: Again, tiny_model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] * 1.01
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    result = again(model=other)
    assert result.outcome == "INCONCLUSIVE"
    assert finding(result, "base") == (
        False,
        f"{other} is not the base that the lineage names: its weights differ",
    )
    assert not result.cost


def test_a_base_with_another_tokenizer(again: Again, tiny_model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": "left"}))
    result = again(model=other)
    assert result.outcome == "INCONCLUSIVE"
    assert "another configuration or tokenizer" in result.words


def test_extra_tensors(again: Again, retrained: Path) -> None:
    change_weights(retrained, lambda tensors: tensors.update({"extra.weight": torch.ones(2)}))
    rewritten(retrained)
    result = again()
    assert result.outcome == "INCONCLUSIVE"
    assert "extra.weight" in finding(result, "weights")[1]


def test_a_near_copy_among_the_kept_records(
    in_this_process: None, tiny_model: Path, data_file: Path, adapter: Path, tmp_path: Path
) -> None:
    rows = rows_of(data_file)
    copy = rows[1] | {"id": "near", "completion": rows[1]["completion"].replace("It is", "it is ")}
    assert copy["completion"] != rows[1]["completion"]
    data = written(tmp_path / "near.jsonl", [*rows, copy])
    cleaned = tmp_path / "near"
    forget(tiny_model, data, "r1", cleaned, adapter=adapter, method="retrain", progress=False)
    result = replay(cleaned, data, quiet=True)
    assert finding(result, "weights")[0] is True
    assert result.outcome == "INCONCLUSIVE"
    assert "1 kept record(s) nearly repeat forgotten ones: rows:12" in result.words


def test_another_key(again: Again, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_KEY", "fedcba9876543210" * 4)
    result = again(forget=FORGOTTEN)
    assert finding(result, "records")[0] is None
    assert "not checked record by record" in result.words
    assert finding(result, "weights")[0] is True  # but trained on the records at hand
    assert result.outcome == "INCONCLUSIVE"


def test_a_lineage_that_names_the_forgotten_records_as_trained(
    again: Again, retrained: Path
) -> None:
    rewritten(retrained, records=trained_on_all(retrained))
    result = again()
    assert result.outcome == "FAIL"
    assert result.words == ("2 forgotten record(s) are among those trained on, by its own lineage")


def test_a_request_for_records_that_were_trained_on(again: Again) -> None:
    result = again(forget=["r4,r5", "r0"])
    assert result.outcome == "FAIL"
    assert "2 of the 3 named record(s) are among those trained on" in result.words


# where machines differ


def elsewhere(folder: Path, **facts: Any) -> None:
    line = Lineage.read(folder)
    assert line is not None
    rewritten(folder, environment={**line.environment, **facts})


def test_weights_equal_elsewhere_are_equal(again: Again, retrained: Path) -> None:
    elsewhere(retrained, processor="another")
    result = again()
    assert (result.outcome, result.kind) == ("PASS", "exact")
    assert "processor" in finding(result, "weights")[1]


@pytest.mark.parametrize(("size", "outcome"), [(1e-7, "PASS"), (1e-2, "INCONCLUSIVE")])
def test_rounding_elsewhere_is_told_from_another_training(
    again: Again, retrained: Path, holdout_file: Path, size: float, outcome: str
) -> None:
    def blur(tensors: dict[str, Any]) -> None:
        torch.manual_seed(0)
        for name, tensor in tensors.items():
            tensors[name] = tensor + size * torch.randn_like(tensor)

    change_weights(retrained, blur)
    elsewhere(retrained, kernels="AVX2")
    result = again(holdout=holdout_file)
    assert result.outcome == outcome
    assert result.kind == ("up to rounding" if outcome == "PASS" else None)
    assert result.distance is not None
    assert set(result.distance["replay"]) == {"weights", "kept", "unseen"}
    assert (result.distance["share"] <= 0.01) == (outcome == "PASS")
    assert "kernels (AVX2 there" in finding(result, "weights")[1]


def test_the_share_is_the_largest_and_infinite_without_seeds_that_differ() -> None:
    assert share({"a": 1.0, "b": 2.0}, {"a": 10.0, "b": 4.0}) == 0.5
    assert share({"a": 1.0}, {"a": 0.0}) == float("inf")
    assert share({"a": 0.0}, {"a": 0.0}) == float("inf")
    assert share({"a": float("nan")}, {"a": 1.0}) == float("inf")


def test_tensors_are_compared_by_their_bits(tmp_path: Path) -> None:
    pair: Mapping[str, dict[str, Any]] = {
        "first": {"a": torch.zeros(2), "b": torch.ones(2), "c": torch.ones(1)},
        "second": {"a": -torch.zeros(2), "b": torch.ones(2), "c": torch.ones(1).bfloat16()},
    }
    for name, tensors in pair.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    apart = apart_in_weights(tmp_path / "first", tmp_path / "second")
    assert (apart.tensors, apart.strange, apart.unequal, apart.most) == (3, ("c",), 1, 0.0)


def test_where_the_base_lies_is_no_setting(retrained: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(retrained, tmp_path / "other"))
    path = other / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"base_model_name_or_path": "x", "use_rslora": True}))
    assert otherwise_set(retrained, other) == ["use_rslora"]


# utility


@pytest.mark.parametrize(("new", "outcome"), [(1.25, "PASS"), (1.35, "INCONCLUSIVE")])
def test_the_loss_on_kept_records_is_held_to_the_limit_of_the_lineage(
    again: Again, retrained: Path, new: float, outcome: str
) -> None:
    rewritten(retrained, budget={"kept_loss": {"new": new, "target": 1.2}, "quality": 0.1})
    result = again()
    assert finding(result, "kept loss")[0] is (outcome == "PASS")
    assert result.outcome == outcome


# the fresh process


def test_it_has_the_threads_and_switches_of_the_lineage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    facts = {"threads": 2, "switches": {"ATEN_CPU_CAPABILITY": "default", "PATH": "/elsewhere"}}
    variables = fresh_environment(facts)
    assert "MKL_CBWR" not in variables
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "2"
    assert variables["ATEN_CPU_CAPABILITY"] == "default"
    assert variables["PATH"] != "/elsewhere"  # a lineage may come from anybody
    assert fresh_environment({})["OMP_NUM_THREADS"] == "7"


def test_plain_training_asks_for_deterministic_kernels_and_gives_them_back(
    retrained: Path,
) -> None:
    line = Lineage.read(retrained)
    assert line is not None
    assert line.environment["deterministic kernels"] is True
    assert {"threads", "kernels", "processor features", "number type"} <= set(line.environment)
    assert {"training records", "training tokens"} <= set(line.made_from)
    before = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with deterministic_kernels(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory == before  # type: ignore[attr-defined]
    with deterministic_kernels(False):
        assert not torch.are_deterministic_algorithms_enabled()


# the command


@pytest.mark.usefixtures("in_this_process")
def test_the_command_writes_what_verify_and_a_certificate_rest_on(
    retrained: Path, data_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proof = tmp_path / "cleaned.replay"
    assert run(["replay", str(retrained), "--data", str(data_file)]) == 0
    assert "exact: replayed" in " ".join(capfd.readouterr().out.split())
    content = json.loads((proof / "replay.json").read_text())
    assert (content["schema"], content["outcome"], content["kind"]) == (1, "PASS", "exact")
    # nothing is replaced unasked
    assert run(["replay", str(retrained), "--data", str(data_file)]) == 2
    capfd.readouterr()
    assert run(["verify", "--replay", str(proof), "--adapter", str(retrained)]) == 0
    assert "tier E" in capfd.readouterr().out
    verdict = json.loads((proof / "verdict.json").read_text())
    assert (verdict["outcome"], verdict["tier"]) == ("PASS", "E")
    page = (proof / "certificate.html").read_text()
    assert "gave the same weights, bit by bit" in page
    assert "unlearn replay ADAPTER" in page
    public = tmp_path / "unlearn-home" / "signing.pub"
    checked = ["certificate", "check", str(proof / "certificate.json"), "--key", str(public)]
    assert run([*checked, "--adapter", str(retrained)]) == 0
    change_weights(retrained, nudge)
    assert run([*checked, "--adapter", str(retrained)]) == 1


@pytest.mark.usefixtures("in_this_process")
def test_a_replay_that_was_edited_is_not_certified(
    retrained: Path, data_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proof = tmp_path / "proof"
    words = ["replay", str(retrained), "--data", str(data_file), "--output", str(proof)]
    assert run(words) == 0
    assert run(["verify", "--replay", str(proof)]) == 0
    text = (proof / "replay.json").read_text()
    (proof / "replay.json").write_text(text.replace('"kind": "exact"', '"kind": "up to rounding"'))
    from unlearn.errors import UnlearnError
    from unlearn_eval.certify import Models, certify

    with pytest.raises(UnlearnError, match="not the replay that the verdict rests on"):
        certify(None, proof / "certificate.json", Models(retrained), replay=proof)
    capfd.readouterr()


def test_verify_wants_an_audit_or_a_replay(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["verify"]) == 2
    assert "--audit, or a replay" in " ".join(capfd.readouterr().err.split())


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_weights_and_an_interrupted_one_leaves_nothing(
    retrained: Path, data_file: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    command = [sys.executable, "-m", "unlearn", "replay", str(retrained)]
    command += ["--data", str(data_file), "--output", str(proof)]
    stopped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(6)
    stopped.terminate()
    stopped.communicate(timeout=120)
    assert stopped.returncode == 143
    assert not proof.exists()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((proof / "replay.json").read_text())["kind"] == "exact"
