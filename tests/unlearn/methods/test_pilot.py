"""The pilot: sharpening, the kept teacher, and the method as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import LineageError, OptionError
from unlearn.methods.defaults import LEAST_STEPS
from unlearn.methods.pilot import sharpness_for, teacher_of
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState, open_model
from unlearn.provenance.lineage import Lineage
from unlearn.runs import finetuning, forgetting


@pytest.fixture
def opened(tiny_model: Path, adapter: Path, data_file: Path) -> tuple[ModelState, list[Example]]:
    state = open_model(tiny_model, adapter)
    return state, encode(Records.load(data_file), state.tokenizer, Template("qa"), 128)


def test_sharpness_gives_the_wanted_loss(opened: tuple[ModelState, list[Example]]) -> None:
    state, examples = opened
    for wanted in (2.0, 3.7):
        samplers = [(1 / wanted, 0)]
        found, _ = score_examples(state.model, state.head, examples, samplers=samplers)
        level = -float(found.sampled[samplers[0]].double().mean())
        assert sharpness_for(state, examples, level) == pytest.approx(wanted, rel=0.01)


def test_sharpness_stays_within_its_bounds(opened: tuple[ModelState, list[Example]]) -> None:
    state, examples = opened
    assert sharpness_for(state, examples, 0.0) == 1.0
    assert sharpness_for(state, examples, 1e9) == pytest.approx(8.0)


def test_the_kept_teacher_predicts_as_the_model_did(
    opened: tuple[ModelState, list[Example]],
) -> None:
    state, examples = opened
    teacher = teacher_of(state, examples)
    found, offsets = score_examples(state.model, state.head, examples)
    for i, example in enumerate(examples):
        target = torch.from_numpy(example.ids[example.target])
        log_p = teacher.head(teacher.hidden[i]).log_softmax(-1)
        log_p = log_p.gather(-1, target[:, None])[:, 0]
        torch.testing.assert_close(log_p, found.log_prob[offsets[i] : offsets[i + 1]])


def _forget(model: Path, adapter: Path | None, data: Path, out: Path, **options: object) -> object:
    kind = {"adapter": adapter} if adapter else {}
    options = {"regime": "memorised"} | options
    holdout = options.pop("holdout", None)
    return forgetting.forget(
        model, data, "rows:0-1", out, method="pilot", holdout=holdout, options=options, **kind
    )


@pytest.mark.slow
def test_moves_forget_records_to_where_unseen_ones_are(
    tiny_model: Path, data_file: Path, holdout_file: Path, tmp_path: Path
) -> None:
    learned = finetuning.finetune(
        tiny_model,
        data_file,
        tmp_path / "learned",
        lora={"r": 8, "lora_alpha": 16},
        options={"learning_rate": 1e-2, "epochs": 60, "batch_size": 4},
    )
    # the least number of steps, which cost more than half of so short a training
    epochs = LEAST_STEPS * 4 / 2
    made = _forget(
        tiny_model,
        learned.folder,
        data_file,
        tmp_path / "out",
        holdout=holdout_file,
        regime="auto",
        epochs=epochs,
    )
    before, after = made.before, made.after
    assert before["forget"].loss < 0.5 * before["holdout"].loss
    # half of the way at the very least, and not beyond what unseen records have
    assert after["forget"].loss > (before["forget"].loss + before["holdout"].loss) / 2
    assert after["forget"].loss < 1.5 * after["holdout"].loss
    assert after["retain"].loss < 0.5 * after["holdout"].loss
    line = Lineage.read(tmp_path / "out")
    assert line is not None
    # 2 epochs of 10 records in batches of 4, and the least number of steps
    assert line.cost["steps"] == 5 + LEAST_STEPS
    assert line.method == "pilot"


def test_without_holdout_or_lineage(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(adapter, bare)
    (bare / "lineage.json").unlink()
    made = _forget(tiny_model, bare, data_file, tmp_path / "out", max_steps=2, learning_rate=1e-3)
    assert made.fit.steps == 2 + 2  # 2 epochs of 10 records in batches of 16
    assert made.lineage.options["learning_rate"] == 1e-3


def test_a_full_fine_tune_needs_to_know_its_base(
    tiny_model: Path, data_file: Path, holdout_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(LineageError, match="no lineage that names its base"):
        _forget(tiny_model, None, data_file, tmp_path / "out", max_steps=2)
    full = finetuning.finetune(
        tiny_model,
        data_file,
        tmp_path / "full",
        full=True,
        options={"learning_rate": 1e-3, "max_steps": 2, "batch_size": 4},
    )
    made = _forget(
        full.folder, None, data_file, tmp_path / "out", max_steps=2, holdout=holdout_file
    )
    assert made.lineage.kind == "full"


def test_pilot_epochs_must_be_positive(tiny_model: Path, adapter: Path, data_file: Path) -> None:
    with pytest.raises(OptionError, match="pilot_epochs must be positive"):
        _forget(tiny_model, adapter, data_file, Path("nowhere"), pilot_epochs=0)


def test_with_adamw_it_takes_the_smaller_rate_and_says_so(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    made = _forget(tiny_model, adapter, data_file, tmp_path / "out", max_steps=1, optimizer="adamw")
    # the adapter was trained at 1e-2
    assert made.lineage.options["learning_rate"] == pytest.approx(0.8 * 1e-2)
    assert made.lineage.options["optimizer"] == "adamw"
