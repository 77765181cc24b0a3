"""What a method leaves open is decided from the lineage and the number of records."""

from __future__ import annotations

from typing import Any

import pytest

from unlearn.errors import OptionError
from unlearn.methods.defaults import LEAST_STEPS, decided
from unlearn.methods.registry import METHODS, get_method, resolve
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
