"""What a method leaves open is decided from the lineage and the number of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unlearn.errors import LineageError, OptionError
from unlearn.losses import NLL, FlooredNLL
from unlearn.methods.defaults import (
    FEW_EPOCHS_RATE,
    LEAST_STEPS,
    decided,
    original_training,
    regime,
)
from unlearn.methods.registry import METHODS, get_method, resolve
from unlearn.methods.retrain import same_training
from unlearn.provenance.lineage import Base, Lineage, RecordDigests
from unlearn.training.fitting import total_steps
from unlearn.training.levels import Level
from unlearn.training.options import USUAL_RATE


def _lineage(**training: Any) -> Lineage:
    return Lineage(
        created="2026-01-01T00:00:00+00:00",
        verb="finetune",
        base=Base(name="base", digest="0"),
        digest="1",
        kind="adapter",
        records=RecordDigests(key_id="k"),
        template="qa",
        method="finetune",
        options={},
        seed=0,
        finetuned_with={"training": training},
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_learning_rate_is_the_methods_part_of_the_original_one(name: str) -> None:
    method = get_method(name)
    resolved, notes = decided(resolve(method, {}), _lineage(learning_rate=1e-2), 20)
    assert resolved.training.learning_rate == pytest.approx(method.rate * 1e-2)
    assert not notes


def test_without_lineage_the_usual_rate_is_taken_and_said() -> None:
    resolved, notes = decided(resolve(get_method("npo"), {}), None, 20)
    assert resolved.training.learning_rate == pytest.approx(METHODS["npo"].rate * USUAL_RATE)
    assert len(notes) == 1
    assert "learning_rate" in notes[0]


def test_what_is_given_stays() -> None:
    options = {"learning_rate": 3e-3, "epochs": 2}
    resolved, notes = decided(resolve(get_method("npo"), options), None, 3)
    assert (resolved.training.learning_rate, resolved.training.epochs) == (3e-3, 2)
    assert not notes


def test_auto_is_the_same_as_nothing() -> None:
    left, right = (
        decided(resolve(get_method("npo"), o), _lineage(learning_rate=1e-2), 20)[0].training
        for o in ({"learning_rate": "auto", "epochs": "auto"}, {})
    )
    assert left == right


@pytest.mark.parametrize(("records", "steps"), [(1, LEAST_STEPS), (20, LEAST_STEPS), (400, 500)])
def test_few_records_are_passed_over_more_often(records: int, steps: int) -> None:
    resolved, _ = decided(resolve(get_method("npo"), {}), None, records)
    assert total_steps(resolved.training, records) == steps


def test_steps_end_where_more_would_be_dear_unless_they_are_given() -> None:
    def steps(allowed: int, **options: float) -> tuple[int, list[str]]:
        resolved, notes = decided(
            resolve(get_method("npo"), {"learning_rate": 1e-3, **options}),
            None,
            20,
            most=lambda _: allowed,
        )
        return total_steps(resolved.training, 20), notes

    assert steps(1000) == (LEAST_STEPS, [])
    count, (note,) = steps(7)
    assert count == 7
    assert "7 of the usual 36 optimizer steps" in note
    assert "--method retrain" in note
    assert "max_steps=36" in note
    assert steps(7, epochs=20) == (50, [])
    assert steps(7, max_steps=90) == (90, [])


def _level(trained: float, unseen: float) -> Level:
    return Level(unseen, "told", trained)


def test_the_regime_is_that_of_the_losses() -> None:
    assert regime(_level(0.8, 2.0))[0] == "memorised"  # .4
    assert regime(_level(0.81, 2.0))[0] == "few_epochs"
    assert regime(None)[0] == "memorised"
    assert "0.81, above 0.4 of the 2.00 of unseen ones (told)" in regime(_level(0.81, 2.0))[1]


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if m.kind != "exact"])
def test_few_epochs_take_a_gentler_rate_or_none(name: str) -> None:
    method, lineage = get_method(name), _lineage(learning_rate=1e-2)
    few, known = _level(1.1, 2.2), _level(0.0, 6.8)
    resolved, notes = decided(resolve(method, {}), lineage, 20, level=known)
    assert resolved.training.learning_rate == pytest.approx(method.rate * 1e-2)
    assert resolved.as_dict()["regime"] == "memorised"
    assert [note[:16] for note in notes] == ["regime memorised"]
    if method.memorised_only:
        with pytest.raises(OptionError, match=r"--method retrain.*-o regime=memorised"):
            decided(resolve(method, {}), lineage, 20, level=few)
        with pytest.raises(OptionError, match="given"):
            decided(resolve(method, {"regime": "few_epochs"}), lineage, 20, level=known)
    else:
        resolved, notes = decided(resolve(method, {}), lineage, 20, level=few)
        part = FEW_EPOCHS_RATE if method.kind == "loss" else 1
        assert resolved.training.learning_rate == pytest.approx(part * method.rate * 1e-2)
        assert resolved.as_dict()["regime"] == "few_epochs"
        assert [note[:17] for note in notes] == ["regime few_epochs"]
    asked, notes = decided(resolve(method, {"regime": "memorised"}), lineage, 20, level=few)
    assert asked.training.learning_rate == pytest.approx(method.rate * 1e-2)
    assert not notes


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if m.retain == "nll"])
def test_records_to_keep_are_brought_to_their_old_loss_unless_told_otherwise(name: str) -> None:
    method = get_method(name)
    needed = {"alternates": "somewhere"} if method.alternates == "given" else {}
    resolved = resolve(method, needed)
    assert isinstance(resolved.retain, FlooredNLL)
    assert resolved.as_dict()["retain_floor"] == method.own["retain_floor"] == "old"
    for options in ({"retain_floor": "none"}, {"project_retain": True}):
        plain = resolve(method, needed | options)
        assert type(plain.retain) is NLL
        assert plain.as_dict()["retain_floor"] == "none"
    with pytest.raises(OptionError, match="retain_floor is old or none"):
        resolve(method, needed | {"retain_floor": "new"})


def test_a_floor_of_what_is_no_likelihood_is_refused() -> None:
    for name, options in (("kl_min", {}), ("npo", {"retain_loss": "none"})):
        with pytest.raises(OptionError, match="retain_loss=nll"):
            resolve(get_method(name), options | {"retain_floor": "old"})
    assert "retain_floor" not in resolve(get_method("retrain"), {}).as_dict()
    with pytest.raises(OptionError, match="regime"):
        resolve(get_method("retrain"), {"regime": "memorised"})


def test_a_run_with_open_ends_is_refused() -> None:
    resolved = resolve(get_method("npo"), {})
    with pytest.raises(OptionError, match="epochs or max_steps"):
        total_steps(resolved.training, 5)


def test_the_original_rate_is_what_a_flag_a_lineage_or_a_file_beside_says(tmp_path: Path) -> None:
    method = get_method("npo")
    (tmp_path / "README.md").write_text("- learning_rate: 0.001\n- num_epochs: 3\n")

    def told(parent: Lineage | None, **was: float) -> tuple[float, list[str]]:
        original = original_training(parent, tmp_path, was)
        resolved, notes = decided(resolve(method, {}), parent, 20, original)
        assert resolved.training.learning_rate is not None
        return resolved.training.learning_rate, notes

    rate, (note,) = told(None)
    assert rate == pytest.approx(method.rate * 1e-3)
    assert "README.md: learning_rate" in note
    assert told(_lineage(learning_rate=1e-2)) == (pytest.approx(method.rate * 1e-2), [])
    for parent in (None, _lineage(learning_rate=1e-2)):
        assert told(parent, learning_rate=5e-3) == (pytest.approx(method.rate * 5e-3), [])


def test_a_retraining_takes_its_settings_from_files_beside_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "- learning_rate: 0.001\n- num_epochs: 3\n- total_train_batch_size: 4\n"
        "- lr_scheduler_type: linear\n"
    )
    original = original_training(None, tmp_path, {"epochs": 5.0})
    training = same_training(None, {}, "retrain", original)
    assert (training.learning_rate, training.epochs, training.batch_size) == (1e-3, 5.0, 4)
    assert training.schedule == "linear"
    with pytest.raises(LineageError, match="no file beside it does"):
        same_training(None, {}, "retrain", original_training(None, tmp_path / "none"))
