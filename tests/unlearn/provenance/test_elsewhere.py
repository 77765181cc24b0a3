"""How an adapter was trained is read from what other tools leave beside it, unpickling nothing."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from unlearn.provenance.elsewhere import trained_elsewhere

STATE: dict[str, Any] = {
    "epoch": 2.99,
    "global_step": 30,
    "max_steps": 30,
    "num_train_epochs": 3,
    "train_batch_size": 2,
    "log_history": [
        {"step": 1, "learning_rate": 0.0, "loss": 3.0},
        {"step": 10, "learning_rate": 0.00095, "loss": 2.0},
        {"step": 30, "learning_rate": 1e-5, "loss": 1.0},
        {"train_loss": 2.0},
    ],
}
TRAINER_CARD = """---
library_name: peft
base_model: some/base
---
# A card
The following hyperparameters were used during training:
- learning_rate: 0.0002
- train_batch_size: 2
- eval_batch_size: 64
- gradient_accumulation_steps: 4
- total_train_batch_size: 8
- lr_scheduler_type: cosine
- lr_scheduler_warmup_steps: 5
- num_epochs: 3
"""
AXOLOTL_CARD = """# Card
<details><summary>See axolotl config</summary>

```yaml
base_model: some/base
learning_rate: 3e-4
num_epochs: 4
micro_batch_size: 2
gradient_accumulation_steps: 3
lr_scheduler: linear
weight_decay: 0.01
```
</details>
"""
FACTORY = (
    "learning_rate: 5.0e-05\nnum_train_epochs: 3.0\nper_device_train_batch_size: 2\n"
    "gradient_accumulation_steps: 8\nlr_scheduler_type: cosine\ncutoff_len: 2048\nmax_steps: -1\n"
)


def test_the_peak_and_the_passes_of_trainers_state(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text(json.dumps(STATE))
    found = trained_elsewhere(tmp_path)
    assert found.values == {"learning_rate": 0.00095, "epochs": 3.0, "batch_size": 2}
    assert found.sources["learning_rate"].startswith("trainer_state.json: peak of learning_rate")
    assert not found.notes


def test_the_state_of_the_last_checkpoint_counts(tmp_path: Path) -> None:
    for step, rate in ((9, 1e-3), (10, 2e-3)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        rows = [{"learning_rate": rate}]
        (folder / "trainer_state.json").write_text(json.dumps(STATE | {"log_history": rows}))
    assert trained_elsewhere(tmp_path).values["learning_rate"] == 2e-3


def test_a_model_card_of_trainer(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(TRAINER_CARD)
    found = trained_elsewhere(tmp_path)
    assert found.values == {
        "learning_rate": 0.0002,
        "epochs": 3.0,
        "batch_size": 8,
        "schedule": "cosine",
        "warmup_steps": 5,
    }
    assert found.sources["batch_size"] == "README.md: total_train_batch_size"


@pytest.mark.parametrize(
    "line",
    ["Learning Rate: 2e-4", "| learning_rate | 2e-4 |", "* **Learning rate**: `0.0002`"],
)
def test_a_card_by_hand(line: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"# Card\n\n{line}\n")
    assert trained_elsewhere(tmp_path).values == {"learning_rate": 2e-4}


def test_front_matter_and_a_configuration_in_a_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlearning_rate: 2e-4\n---\n" + AXOLOTL_CARD)
    found = trained_elsewhere(tmp_path)
    assert found.values["learning_rate"] == 2e-4  # PyYAML reads it as a text
    assert found.values["batch_size"] == 6
    assert (found.values["epochs"], found.values["schedule"]) == (4.0, "linear")


@pytest.mark.parametrize("name", ["training_args.yaml", "config.yml", "axolotl.yaml"])
def test_yaml_of_a_tool(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FACTORY)
    found = trained_elsewhere(tmp_path)
    assert found.values == {
        "learning_rate": 5e-5,
        "epochs": 3.0,
        "batch_size": 16,
        "schedule": "cosine",
        "max_length": 2048,
    }
    assert found.sources["learning_rate"] == f"{name}: learning_rate"


def test_results_and_a_log(tmp_path: Path) -> None:
    (tmp_path / "all_results.json").write_text(json.dumps({"epoch": 2.0, "train_loss": 1}))
    rows = [{"lr": 1e-4, "epoch": 0.5}, {"lr": 2e-4, "epoch": 1.99}]
    (tmp_path / "trainer_log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert trained_elsewhere(tmp_path).values == {"learning_rate": 2e-4, "epochs": 2.0}


def test_a_declared_rate_explains_a_peak_that_was_logged_after_warming_up(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text(json.dumps(STATE))
    (tmp_path / "README.md").write_text("- learning_rate: 0.001\n")
    found = trained_elsewhere(tmp_path)
    assert found.values["learning_rate"] == 0.001
    assert not found.notes


def test_the_record_of_the_run_counts_where_files_contradict(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text(json.dumps(STATE))
    (tmp_path / "README.md").write_text(TRAINER_CARD)
    found = trained_elsewhere(tmp_path)
    assert found.values["learning_rate"] == 0.00095
    assert found.values["batch_size"] == 8
    (note,) = found.notes
    assert "contradict" in note
    assert "0.0002 by README.md: learning_rate" in note
    assert "0.00095 by trainer_state.json" in note


def test_steps_take_the_place_of_passes(tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text(json.dumps({"max_steps": 60, "num_train_epochs": 3}))
    assert trained_elsewhere(tmp_path).values == {"max_steps": 60}


def test_a_pickle_is_seen_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").write_bytes(pickle.dumps({"learning_rate": 1}))
    found = trained_elsewhere(tmp_path)
    assert not found.values
    assert "training_args.bin was not read: it is a pickle" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trainer_state.json", "{"),
        ("trainer_state.json", "[1]"),
        ("config.yaml", "a: [1"),
        ("training_args.yaml", "!!python/object/apply:os.system ['false']"),
        ("trainer_log.jsonl", "no json\n"),
    ],
)
def test_what_cannot_be_read_is_told(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    found = trained_elsewhere(tmp_path)
    assert not found.values
    assert name in found.notes[0]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "true", "[1]", "high", "7", "null"])
def test_what_is_no_rate_is_passed_over(value: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"learning_rate: {value}\n")
    assert not trained_elsewhere(tmp_path).values


def test_peft_s_blank_card_tells_nothing(tmp_path: Path) -> None:
    text = "---\nlibrary_name: peft\n---\n- **Training regime:** [More Information]\n```\nx\n```"
    (tmp_path / "README.md").write_text(text)
    assert not trained_elsewhere(tmp_path).values


def test_a_card_of_ours_may_tell_of_an_unlearning_and_is_passed_over(tmp_path: Path) -> None:
    card = TRAINER_CARD.replace("library_name: peft", "tags: [lora, unlearn]")
    (tmp_path / "README.md").write_text(card)
    assert not trained_elsewhere(tmp_path).values
