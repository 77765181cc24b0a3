"""Retraining with a budget goes only part of the way where a stage takes it too far."""

from __future__ import annotations

import torch

from unlearn import Records
from unlearn.apps.demo import base_path, records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.methods.budget import Budget
from unlearn.methods.reduced import Old, Search
from unlearn.model.state import ModelState, new_adapter, open_model
from unlearn.training.fitting import mean_loss
from unlearn.training.options import LoraOptions, TrainingOptions
from unlearn.training.stages import StageOptions, fit_stages, trained_weights

WHOLE = TrainingOptions(learning_rate=5e-3, batch_size=8, epochs=4)
QUALITY = 0.02


def fresh() -> ModelState:
    return new_adapter(open_model(base_path()), LoraOptions().model_dump(), 3)


def kept(state: ModelState) -> list[Example]:
    people = Records.from_rows(records(8, seed=0))
    return encode(people, state.tokenizer, Template("qa"), state.max_length)


def test_what_goes_too_far_goes_part_of_the_way_and_so_do_its_repetitions() -> None:
    state = fresh()
    examples = kept(state)
    search = Search(state, examples, WHOLE, Budget(None, QUALITY), 5)
    start = search._fresh_loss()
    target = round(start - 0.05, 2)  # which a quarter of the training leaves far behind
    search = Search(state, examples, WHOLE, Budget(None, QUALITY), 5, old=Old(target))
    made = search.run()
    told = made.trail["kept_loss"]
    tries = made.trail["tries"]
    assert tries[0]["kind"] == "stage"
    assert tries[0]["loss"] < target - QUALITY
    assert {each["kind"] for each in tries[1:]} == {"part"}
    assert abs(told["new"] - target) <= QUALITY
    assert abs(told["drift"]) <= QUALITY
    stages = [StageOptions(**each) for each in made.recipe["stages"]]
    assert [0 < stage.part < 1 for stage in stages] == [True]
    assert stages[0].part == tries[-1]["factor"]
    # looking costs as scoring does, and nothing is trained anew
    assert made.trail["cost"]["rows"] == tries[0]["rows"]
    again = fresh()
    fit_stages(again, stages, examples, seed=5)
    one, other = trained_weights(state), trained_weights(again)
    assert all(torch.equal(one[name], other[name]) for name in one)
    watched = [examples[i] for i in made.trail["watched"]]
    assert mean_loss(again, watched) == mean_loss(state, watched)


def test_a_stage_goes_the_whole_way_unless_it_is_said() -> None:
    stage = StageOptions.of(WHOLE)
    assert (stage.part, stage.training) == (1.0, WHOLE)
    assert StageOptions(**WHOLE.model_dump()) == stage
