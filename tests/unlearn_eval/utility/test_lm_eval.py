from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from unlearn.apps.demo import base_path, facts
from unlearn.errors import DataError, OptionError
from unlearn.model.state import new_adapter, open_model
from unlearn_eval.utility.lm_eval import HarnessOptions, _interval, evaluate_tasks


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(OptionError, match=r"pip install '\.\[lm-eval\]'"):
        evaluate_tasks(None, ["days"])  # type: ignore[arg-type]


def test_intervals_only_where_a_metric_is_a_mean():
    assert _interval(0.5, [1.0, 0.0], 2, 0.95).method == "exact"
    assert _interval(0.3, [0.1, 0.5], 2, 0.95).method == "t"
    assert _interval(9.0, [0.1, 0.5], 2, 0.95).method == "none"  # such as a perplexity
    group = _interval(0.5, [], 40, 0.95)
    assert (group.method, group.n, group.value) == ("none", 40, 0.5)
    assert _interval(0.5, [(1, 2)], 1, 0.95).method == "none"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of one's own: which of three answers belongs to a question."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    known = facts()[:8]
    rows = [
        {
            "question": fact["prompt"],
            "choices": [known[(i + k) % 8]["completion"] for k in (1, 0, 2)],
            # one key in eight is wrong
            "answer": 1 if i else 0,
        }
        for i, fact in enumerate(known)
    ]
    data = tmp_path / "days.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "days",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "days.yaml").write_text(json.dumps(task))  # JSON is YAML
    missing = task | {
        "task": "gone",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "gone.jsonl")}},
    }
    (tasks / "gone.yaml").write_text(json.dumps(missing))
    return tasks


def test_a_local_task_on_an_adapter(folder):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    state = new_adapter(open_model(base_path()), {"r": 4}, 0)
    state.model.train()
    options = HarnessOptions(folder)
    found = evaluate_tasks(state, ["days"], options)
    assert list(found) == ["days.acc"]
    assert found["days.acc"].value == 7 / 8  # it knows them all
    assert (found["days.acc"].n, found["days.acc"].method) == (8, "exact")
    assert found["days.acc"].low < 7 / 8 < found["days.acc"].high
    assert state.model.training
    assert evaluate_tasks(state, ["days"], HarnessOptions(folder, limit=2))["days.acc"].value == 0.5
    with pytest.raises(OptionError, match="dayz"):
        evaluate_tasks(state, ["dayz"], options)
    with pytest.raises(DataError, match="cannot be had"):
        evaluate_tasks(state, ["gone"], options)
