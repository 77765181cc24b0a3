"""A row whose adapter is made of shards stands beside others: its own original, and a replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.compare.comparing import compare
from unlearn.apps.compare.estimate import costs, counts
from unlearn.apps.compare.execution.work import check
from unlearn.apps.compare.layout import lay_out
from unlearn.errors import OptionError
from unlearn_eval.replay import retraining, worker

ROW = {"method": "shards", "options": {"shards": 2}}


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Sixteen records of eight people, of which the last two are never seen."""
    path = tmp_path / "people.jsonl"
    rows = [
        {
            "id": f"r{i}",
            "subject": f"person{i // 2}",
            "prompt": f"What is number {i % 2} of person{i // 2}?",
            "completion": f"It is {(i * 7919 + 13) % 10007}.",
        }
        for i in range(16)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def mine(recipe: Any, people: Path) -> Any:
    def make(**changes: Any) -> Any:
        plain = {
            "data": str(people),
            "train": "rows:0-11",
            "forget": "subject:person2",
            "holdout": "rows:12-15",
            "seeds": (0,),
            "references": 1,
            "methods": [{"method": "retrain"}, ROW],
            "policy": "quick",
        }
        return recipe(**{**plain, **changes})

    return make


@pytest.mark.slow
def test_it_stands_beside_retraining(
    mine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lineage_key: str
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    monkeypatch.setattr(retraining, "_run", lambda file, _: worker.main(file))
    found = compare(mine(), tmp_path / "out", dtype="float32")
    assert not found.failures
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    cells = {cell["method"]: cell for cell in content["cells"]}
    ours, theirs = cells["shards"], cells["retrain"]
    assert (ours["ruling"]["outcome"], ours["ruling"]["tier"]) == ("PASS", "E")
    assert "gap" not in ours["numbers"]  # it has no references of its own making
    for name in ("retain_loss", "retain_recall", "forget_loss", "auc", "tokens", "wall"):
        assert name in ours["numbers"]
        assert name in theirs["numbers"]
    assert 0 <= ours["numbers"]["auc"] <= 1
    assert ours["numbers"]["tokens"] < theirs["numbers"]["tokens"] * 1.5
    again = compare(mine(), tmp_path / "out", dtype="float32")
    assert again.steps == 0


def test_its_plan_has_its_own_original(mine: Any, study: Any, people: Path) -> None:
    laid = lay_out(study(**_changes(mine())))
    cell = next(cell for cell in laid.cells if cell.method == "shards")
    assert cell.target is not None
    assert cell.target is not laid.target
    assert cell.unlearn.needs == (cell.target.folder,)
    assert laid.steps.index(cell.target) < laid.steps.index(cell.unlearn)
    of = study(**_changes(mine()))
    told = costs(of, laid, counts(of))
    assert 0 < told.work[cell.unlearn.folder].trained <= told.work[cell.target.folder].trained


def _changes(recipe: Any) -> dict[str, Any]:
    names = ("data", "train", "forget", "holdout", "seeds", "references", "methods", "policy")
    dumped = recipe.model_dump()
    return {name: dumped[name] for name in names}


@pytest.mark.parametrize(
    ("row", "changes", "words"),
    [
        ({"options": {"epochs": 3}}, {}, "epochs is for one adapter"),
        ({"options": {"by": "tenant"}}, {}, "by is subject or record"),
        ({}, {"robustness": ("relearn",)}, "leave robustness"),
    ],
)
def test_what_shards_do_not_take_is_refused(
    row: dict[str, Any], changes: dict[str, Any], words: str, mine: Any, study: Any
) -> None:
    asked = mine(methods=[{**ROW, **row}])
    with pytest.raises(OptionError, match=words):
        check(study(**_changes(asked), **changes))
