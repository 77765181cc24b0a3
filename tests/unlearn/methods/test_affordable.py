"""How many steps fit into half of what retraining takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unlearn.methods.affordable import affordable_steps
from unlearn.methods.defaults import OriginalTraining
from unlearn.methods.plans import steps_within
from unlearn.methods.registry import get_method, resolve
from unlearn.runs import finetuning, forgetting
from unlearn.training.levels import Level
from unlearn.training.options import TrainingOptions


def _examples(count: int, tokens: int = 10) -> list[Any]:
    return [SimpleNamespace(ids=[0] * tokens) for _ in range(count)]


def _steps(name: str, epochs: float, level: Level | None = None, **options: Any) -> int:
    """Steps of a method for 20 records to forget and 80 to keep, of 10 tokens each."""
    split = {"forget": _examples(20), "retain": _examples(80), "holdout": []}
    original = OriginalTraining({"learning_rate": 1e-3, "epochs": epochs, "batch_size": 16})
    resolved = resolve(get_method(name), options)
    most = affordable_steps(resolved, split, None, original, level)
    assert most is not None
    training = resolved.training.model_copy(update={"epochs": resolved.training.epochs or 1000.0})
    return most(training)


def test_steps_within_a_limit_by_hand() -> None:
    assert steps_within(100, lambda n: 10.0 * n, 50) == 10
    assert steps_within(99, lambda n: 10.0 * n, 50) == 9
    assert steps_within(99, lambda n: 10.0 * n, 5) == 5
    assert steps_within(0, lambda n: 10.0 * n, 5) == 1


def test_steps_by_hand() -> None:
    # retraining: 30 epochs of 80 records of 10 tokens = 24000, half of it 12000
    # a step: 8 records to forget, scored anew for a tenth of the step: 88 tokens
    assert _steps("grad_ascent", 30) == 136
    assert _steps("grad_ascent", 30, stop="none") == 150
    # 1200 tokens were scored for the level: a third of them, 400
    assert _steps("grad_ascent", 30, Level(1.0, "", 1.0, 1200), stop="none") == 145
    # as many to keep, and their old losses: 80 records, 800 tokens, a third of them
    assert _steps("grad_diff", 30, stop="none") == (12000 - 266) // 160
    assert _steps("grad_diff", 30, stop="none", retain_floor="none") == 75
    # those of the records to forget as well
    assert _steps("npo", 30, stop="none") == (12000 - 333) // 160
    # the pilot goes over the kept records twice; then 4 to forget and 16 to keep a step
    assert _steps("pilot", 30) == (12000 - 1600 - 266) // 200
    # training on the forget records alone
    assert _steps("task_vector", 30, stop="none") == 150
    assert _steps("npo", 1) == 1


def test_nobody_can_tell_without_the_original_training_or_records_to_keep() -> None:
    split = {"forget": _examples(2), "retain": _examples(8), "holdout": []}
    resolved = resolve(get_method("npo"), {})
    known = OriginalTraining({"learning_rate": 1e-3, "epochs": 3})
    assert affordable_steps(resolved, split, None, OriginalTraining(), None) is None
    assert affordable_steps(resolved, split | {"retain": []}, None, known, None) is None
    assert affordable_steps(resolved, split, None, known, None) is not None


@pytest.mark.parametrize("method", ["npo", "kl_min", "task_vector"])
def test_a_run_by_default_takes_half_of_retraining_at_most(
    method: str, tiny_model: Path, data_file: Path, holdout_file: Path, tmp_path: Path
) -> None:
    learned = finetuning.finetune(
        tiny_model,
        data_file,
        tmp_path / "learned",
        lora={"r": 4, "lora_alpha": 8},
        options={"learning_rate": 1e-2, "epochs": 8, "batch_size": 4},
    )
    plans: list[Any] = []

    def run(name: str, **options: Any) -> Any:
        return forgetting.forget(
            tiny_model,
            data_file,
            "rows:0-1",
            tmp_path / name,
            adapter=learned.folder,
            method=method,
            holdout=holdout_file,
            announce=plans.append,
            options=options,
        )

    capped = run("capped", batch_size=2)
    (plan,) = plans
    assert plan.share <= 0.5
    assert capped.fit.tokens <= 0.5 * plan.retraining.tokens
    assert any("of the usual 36 optimizer steps" in note for note in capped.notes)
    assert any("regime " in note for note in capped.notes)
    free = run("free", batch_size=2, epochs=40, stop="none")
    assert free.fit.steps == 40
    assert plans[1].share > 0.5
    assert any("--method retrain" in note for note in plans[1].notes)


def test_training_options_decide() -> None:
    split = {"forget": _examples(20), "retain": _examples(80), "holdout": []}
    original = OriginalTraining({"learning_rate": 1e-3, "epochs": 30})
    most = affordable_steps(resolve(get_method("grad_ascent"), {}), split, None, original, None)
    assert most is not None
    assert most(TrainingOptions(epochs=1000, batch_size=16)) == 68
    assert most(TrainingOptions(epochs=2, batch_size=16)) == 3
