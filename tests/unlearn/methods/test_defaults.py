"""What a method leaves open is decided from the lineage and the number of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unlearn.errors import LineageError, OptionError
from unlearn.methods.defaults import LEAST_STEPS, decided, original_training
from unlearn.methods.registry import METHODS, get_method, resolve
from unlearn.methods.retrain import same_training
from unlearn.provenance.lineage import Base, Lineage, RecordDigests
from unlearn.training.fitting import total_steps
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
