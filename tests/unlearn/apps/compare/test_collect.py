"""What is read off the folders of steps, made by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from unlearn.apps.compare.collect import MIXED, collect
from unlearn.apps.compare.details import details
from unlearn.apps.compare.layout import DONE, Step, lay_out


@pytest.fixture
def finished():
    """Write what a step leaves."""

    def make(step: Step, rows: list[dict[str, Any]] | None = None, **facts: Any) -> None:
        step.result.mkdir(parents=True)
        (step.result / "audit.json").write_text(json.dumps({"rows": rows or []}))
        (step.folder / DONE).write_text(json.dumps({"wall": 1.0, "place": "here", **facts}))

    return make


def auc(value: float, state: str = "after", deployment: str = "as-is") -> dict[str, Any]:
    return {
        "state": state,
        "split": "forget",
        "probe": "membership.loss",
        "metric": "auc",
        "value": value,
        "n": 2,
        "deployment": deployment,
        "prompt_state": "verbatim",
    }


@pytest.fixture
def changed(study):
    """One cell, with two further changes."""
    few = [{"method": "npo"}]
    mine = study(methods=few, forget="r0,r1", seeds=(0,), references=1, robustness=["int8"])
    return mine, lay_out(mine)


def test_a_cell_keeps_its_audit_when_further_changes_fail(changed, finished):
    study, layout = changed
    (cell,) = layout.cells
    finished(cell.unlearn)
    finished(cell.audit, [auc(0.8), auc(0.5, "reference:0")])
    assert cell.trial
    found = collect(study, layout, {cell.trial.folder: "changes to npo: out of memory"})
    (outcome,) = found.outcomes
    assert outcome.numbers["gap"] == pytest.approx(0.3)
    assert not outcome.error
    assert found.of("npo") == [outcome]
    assert outcome.notes == ["no number after further changes: changes to npo: out of memory"]
    assert details(study, layout, found.outcomes)[0].runs[0].notes == outcome.notes
    # without its adapter it has failed, for that reason alone
    why = {step.folder: "npo: oh" for step in (cell.unlearn, cell.audit, cell.trial)}
    (cell.unlearn.folder / DONE).unlink()
    (failed,) = collect(study, layout, why).outcomes
    assert (failed.error, failed.notes) == ("npo: oh", [])


def test_steps_of_unequal_precision_are_told_of(changed, finished):
    study, layout = changed
    finished(layout.target, dtype="bfloat16")
    finished(layout.references[0][0])  # by a version that did not note it
    assert MIXED not in collect(study, layout, {}).setting
    finished(layout.trials[0][0], dtype="float32")
    assert collect(study, layout, {}).setting[MIXED].startswith("1 in bfloat16 and 1 in float32: ")


def test_a_further_change_that_did_not_run_is_noted(changed, finished):
    study, layout = changed
    (cell,), (reference,) = layout.cells, layout.trials[0]
    finished(reference, [auc(0.5, deployment="int8"), auc(0.5, deployment="relearn k=2")])
    assert cell.trial
    finished(cell.trial, [auc(0.6, deployment="int8")])
    (outcome,) = collect(study, layout, {}).outcomes
    assert "robust" not in outcome.numbers
    assert outcome.notes == ["no number after further changes: not measured: relearn k=2"]
