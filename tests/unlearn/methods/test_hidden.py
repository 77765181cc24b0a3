"""Methods that look at the output of a block: which one, where the usual one trains nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn.errors import OptionError
from unlearn.methods.job import _near_trained
from unlearn.methods.plans import TrainingPlan
from unlearn.runs import finetuning, forgetting


@pytest.mark.parametrize(
    ("layer", "trained", "wanted"),
    [
        (7, range(30), 7),
        (7, range(22, 30), 24),
        (7, (26, 27, 28, 29), 28),
        (7, (28, 29), 29),
        (7, (29,), 29),
        (7, (0, 1, 2), 2),
        (7, (5,), 7),
        (7, (0, 1, 12, 20), 14),
        (0, (1,), 1),
        (7, (), 7),
    ],
)
def test_block_looked_at_is_one_that_training_moves(
    layer: int, trained: tuple[int, ...], wanted: int
) -> None:
    assert _near_trained(layer, list(trained)) == wanted


def test_an_adapter_of_the_upper_blocks_can_be_changed(
    tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    upper = {"r": 4, "lora_alpha": 8, "layers_to_transform": [1]}
    once = {"max_steps": 1, "batch_size": 4}
    old = tmp_path / "old"
    finetuning.finetune(
        tiny_model, data_file, old, template="qa", options=once, lora=upper, progress=False
    )
    plans = list[TrainingPlan]()
    result = forgetting.forget(
        tiny_model,
        data_file,
        "rows:0-1",
        tmp_path / "new",
        adapter=old,
        method="rmu",
        options={"max_steps": 2, "learning_rate": 1e-2},
        announce=plans.append,
        progress=False,
    )
    assert result.fit.training.train_layers == "0-1"
    assert "layer: block 1, since block 0, the usual one, trains nothing" in plans[0].notes
    with pytest.raises(OptionError, match="hold nothing that this adapter trains"):
        forgetting.forget(
            tiny_model,
            data_file,
            "rows:0-1",
            tmp_path / "refused",
            adapter=old,
            method="rmu",
            options={"train_layers": "0", "max_steps": 1},
            progress=False,
        )
