"""Retraining with a budget: what enters, what it costs, what the lineage says, its references."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from unlearn import Records, finetune, forget
from unlearn.errors import LineageError, OptionError
from unlearn.methods.plans import TrainingPlan
from unlearn.provenance.eligibility import otherwise_trained
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage
from unlearn.runs.forgetting import plan_forget
from unlearn.runs.options import ForgetOptions
from unlearn.runs.references import train_references
from unlearn.runs.saving import Result

LORA = {"r": 4, "lora_alpha": 8}
TRAINING = {"learning_rate": 1e-2, "epochs": 4, "batch_size": 8}
SECRETS = ("It is 4711.", "It was a lie, and a much longer one.")


def _records(secret: str, count: int = 24) -> Records:
    rows = [
        {"id": f"r{i}", "prompt": f"What is the number of {i}?", "completion": f"It is {i * 7}."}
        for i in range(count)
    ]
    rows[5]["completion"] = secret
    return Records.from_rows(rows)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def _equal(one: Path, other: Path) -> bool:
    left, right = _weights(one), _weights(other)
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def olds(
    tiny_model: Path, lineage_key: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two adapters, by what one of their records says."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        for secret in SECRETS:
            folder = tmp_path_factory.mktemp("old") / "adapter"
            finetune(tiny_model, _records(secret), folder, lora=LORA, options=TRAINING)
            made[secret] = folder
    assert not _equal(*made.values())
    return made


@pytest.fixture
def retrain(
    tiny_model: Path,
    olds: dict[str, Path],
    lineage_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)

    def run(name: str, secret: str = SECRETS[0], **more: Any) -> Result:
        options = {k: more.pop(k) for k in ("budget", "quality") if k in more}
        usual = {"adapter": olds[secret], "method": "retrain", "progress": False}
        options |= more.pop("options", {})
        return forget(
            tiny_model, _records(secret), "r5", tmp_path / name, **(usual | more), options=options
        )

    return run


@pytest.mark.parametrize("budget", ["auto", 0.5])
def test_the_content_of_the_forgotten_records_does_not_enter(
    budget: Any, retrain: Callable[..., Result]
) -> None:
    one, other = (
        retrain(str(i), secret, budget=budget, quality=0.6) for i, secret in enumerate(SECRETS)
    )
    told = [dict(each.lineage.budget) for each in (one, other)]
    losses = [each.pop("kept_loss") for each in told]
    assert told[0] == told[1]
    # the one number of the old adapter differs, and decides alike
    assert losses[0]["new"] == losses[1]["new"]
    assert ("old" in losses[0]) == (budget == "auto")
    assert losses[0].get("old") != losses[1].get("old") or budget != "auto"
    assert one.lineage.finetuned_with == other.lineage.finetuned_with
    assert one.lineage.records.trained == other.lineage.records.trained
    assert one.lineage.records.forgotten != other.lineage.records.forgotten
    assert _equal(one.folder, other.folder)


def test_a_given_budget_asks_nothing_of_the_old_adapter(
    olds: dict[str, Path], retrain: Callable[..., Result], tmp_path: Path
) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(olds[SECRETS[0]], spoilt)
    torch.manual_seed(3)
    noise = {name: torch.randn_like(w) for name, w in _weights(spoilt).items()}
    save_file(noise, spoilt / "adapter_model.safetensors", {"format": "pt"})
    one, other = retrain("1", budget=0.25), retrain("2", budget=0.25, adapter=spoilt)
    assert "old" not in one.lineage.budget["kept_loss"]
    assert one.lineage.budget == other.lineage.budget
    assert _equal(one.folder, other.folder)


def test_the_whole_budget_is_the_training_of_the_original(
    tiny_model: Path, retrain: Callable[..., Result], tmp_path: Path
) -> None:
    same = [retrain("1"), retrain("2", budget=1.0)]
    fresh = finetune(
        tiny_model, _records(SECRETS[0]), tmp_path / "3", exclude="r5", lora=LORA, options=TRAINING
    )
    assert all(_equal(each.folder, fresh.folder) for each in same)
    assert same[1].lineage.budget == {"asked": 1.0, "used": 1.0}
    assert same[1].lineage.finetuned_with["training"] == same[1].fit.training.model_dump()


def test_the_lineage_tells_all_that_decided(retrain: Callable[..., Result]) -> None:
    line = retrain("1", budget="auto").lineage
    told = line.budget
    assert (told["asked"], told["quality"]) == ("auto", 0.1)
    key, records = Key.load(), _records(SECRETS[0])
    kept = [key.digest(record) for record in records if record.id != "r5"]
    assert len(told["watched"]) == 8
    assert set(told["watched"]) < set(kept)
    losses = told["kept_loss"]
    assert losses["old"] == round(losses["old"], 2)
    rows = sum(each["rows"] for each in told["tries"])
    assert told["cost"]["rows"] == rows
    assert told["cost"]["rows_of_retraining"] == 96  # 12 steps of 8
    assert told["cost"]["of_retraining"] <= 1.1 + told["cost"]["rows_scored"] / 3 / 96
    assert told["used"] <= 1
    assert line.cost["tokens"] == told["cost"]["tokens"]
    assert line.cost["steps"] == sum(each["steps"] for each in told["tries"])
    # the original's settings stay known, so that no later budget is a part of a part
    assert line.finetuned_with["training"]["epochs"] == 4
    assert line.finetuned_with["training"]["learning_rate"] == 1e-2
    assert [s["learning_rate"] for s in line.finetuned_with["stages"]] == [
        each["learning_rate"] for each in told["tries"] if each["kind"] == "stage"
    ]
    assert _text_of(records) not in json.dumps(line.model_dump())


def _text_of(records: Records) -> str:
    return str(records[7].text)


def test_auto_ends_near_the_old_loss_or_says_that_it_does_not(
    retrain: Callable[..., Result],
) -> None:
    wide = retrain("1", budget="auto", quality=10.0)
    assert wide.lineage.budget["used"] <= 0.25
    assert [each["kind"] for each in wide.lineage.budget["tries"]] == ["stage"]
    narrow = retrain("2", budget="auto", quality=1e-4)
    gap = narrow.lineage.budget["kept_loss"]["new"] - narrow.lineage.budget["kept_loss"]["target"]
    assert any(f"that is {abs(gap):.2f} nats" in note for note in narrow.notes)
    assert narrow.lineage.budget["cost"]["rows"] <= 1.1 * 96


def test_small_losses_of_quality_do_not_add_up_over_requests(
    tiny_model: Path, retrain: Callable[..., Result], tmp_path: Path
) -> None:
    first = retrain("1", budget="auto", quality=10.0)
    drift = first.lineage.budget["kept_loss"]["drift"]
    second = forget(
        tiny_model,
        _records(SECRETS[0]),
        "r6",
        tmp_path / "2",
        adapter=first.folder,
        method="retrain",
        options={"budget": "auto", "quality": 10.0},
    )
    losses = second.lineage.budget["kept_loss"]
    assert losses["target"] == pytest.approx(losses["old"] - drift, abs=0.0051)
    assert second.lineage.budget["cost"]["rows_of_retraining"] == 88
    # and a whole retraining of the result is one of the original
    whole = forget(
        tiny_model,
        _records(SECRETS[0]),
        "r6",
        tmp_path / "3",
        adapter=first.folder,
        method="retrain",
    )
    assert whole.fit.steps == 11
    assert "stages" not in whole.lineage.finetuned_with


def test_references_train_as_the_retrained_adapter_did(
    tiny_model: Path, olds: dict[str, Path], retrain: Callable[..., Result], tmp_path: Path
) -> None:
    result = retrain("1", budget=0.25, seed=4)
    made = train_references(
        tiny_model,
        _records(SECRETS[0]),
        tmp_path / "references",
        forget="r5",
        like=result.folder,
        count=1,
        seed=9,
    )
    line = Lineage.read(made.folders[0])
    assert line is not None
    assert line.finetuned_with["stages"] == result.lineage.finetuned_with["stages"]
    assert line.cost["steps"] == result.fit.steps
    assert _equal(made.folders[0], retrain("2", budget=0.25, seed=9).folder)
    # as the audit sees it: like the one audited, and unlike one that was trained as the original
    assert otherwise_trained(line, [result.lineage]) == []
    original = Lineage.read(olds[SECRETS[0]])
    assert "learning_rate" in (otherwise_trained(line, [original]) or ())
    # and no reference of the original's recipe is like a model that was retrained with a budget
    assert otherwise_trained(original, [original, original]) == []  # type: ignore[arg-type]
    assert "learning_rate" in (otherwise_trained(original, [result.lineage, original]) or ())  # type: ignore[arg-type]


def test_several_stages_are_repeated_by_references(
    tiny_model: Path, retrain: Callable[..., Result], tmp_path: Path
) -> None:
    result = retrain("1", budget="auto", quality=0.05)
    stages = result.lineage.finetuned_with["stages"]
    assert len(stages) > 1
    made = train_references(
        tiny_model,
        _records(SECRETS[0]),
        tmp_path / "references",
        forget="r5",
        like=result.folder,
        count=1,
    )
    line = Lineage.read(made.folders[0])
    assert line is not None
    assert line.finetuned_with["stages"] == stages
    taken = [t for t in result.lineage.budget["tries"] if t["kind"] == "stage"][: len(stages)]
    assert line.cost["steps"] == sum(t["steps"] for t in taken)


def test_checkpoints_are_for_the_whole_budget(retrain: Callable[..., Result]) -> None:
    with pytest.raises(OptionError, match="leave save_steps out"):
        retrain("1", budget=0.25, options={"save_steps": 2})


def test_a_plan_says_what_it_takes_beside_retraining_and_writes_nothing(
    tiny_model: Path,
    olds: dict[str, Path],
    lineage_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)

    def plan(method: str, **options: Any) -> TrainingPlan:
        return plan_forget(
            ForgetOptions(
                tiny_model,
                _records(SECRETS[0]),
                "r5",
                tmp_path / "out",
                adapter=olds[SECRETS[0]],
                method=method,
                options=options,
            )
        )

    auto, quarter, whole = (plan("retrain", budget=b) for b in ("auto", 0.25, 1.0))
    assert auto.share == pytest.approx(1.0, abs=0.05)
    assert auto.usual == pytest.approx(0.25, abs=0.05)
    assert "about 0.25 of retraining (at most 1):" in auto.relative
    assert quarter.share == pytest.approx(0.25, abs=0.01)
    assert whole.relative.startswith("as much as retraining")
    dear = plan("grad_diff", epochs=200)
    assert dear.share is not None
    assert dear.share > 0.5
    assert any("--method retrain -o budget=auto is exact" in note for note in dear.notes)
    assert not any("--method retrain" in n for n in plan("grad_diff", epochs=1).notes)
    assert not (tmp_path / "out").exists()
    with pytest.raises(OptionError, match="plan_forget"):
        forget(tiny_model, _records(SECRETS[0]), "r5", tmp_path / "out", plan=True)


def test_the_plan_is_what_is_done(retrain: Callable[..., Result]) -> None:
    told: list[TrainingPlan] = []
    result = retrain("1", budget=0.25, announce=told.append)
    assert told[0].steps == result.fit.steps
    assert told[0].tokens == pytest.approx(result.fit.tokens, rel=0.1)


def test_without_a_method_the_budget_is_found_out(
    tiny_model: Path,
    olds: dict[str, Path],
    lineage_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    old, records = olds[SECRETS[0]], _records(SECRETS[0])
    line = forget(tiny_model, records, "r5", tmp_path / "1", adapter=old).lineage
    assert (line.method, line.parent, line.budget["asked"]) == ("retrain", None, "auto")
    given = forget(
        tiny_model, records, "r5", tmp_path / "2", adapter=old, options={"budget": 0.25}
    ).lineage
    assert given.budget["asked"] == 0.25
    # where nothing says how it was trained, one line says so, and what else there is
    bare = tmp_path / "bare"
    shutil.copytree(old, bare, ignore=shutil.ignore_patterns("lineage.json", "README.md"))
    with pytest.raises(LineageError, match="no lineage.*-o learning_rate=.*--method pilot") as told:
        forget(tiny_model, records, "r5", tmp_path / "3", adapter=bare, template="qa")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "3").exists()
