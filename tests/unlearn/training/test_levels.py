"""The loss of unseen records, by hand and on a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import encode
from unlearn.model.scoring import score_examples
from unlearn.model.state import open_model
from unlearn.training.fitting import fit
from unlearn.training.levels import Level, level_of, record_losses, sample, unseen_level
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions


def test_the_level_is_the_bases_loss_plus_what_unseen_records_gain() -> None:
    # forget records are 4 nats for the base; unseen ones, though harder, gain 1 and 2 nats
    level = level_of(np.array([3.0, 5.0]), np.array([5.0, 4.0]), np.array([6.0, 6.0]))
    assert level == pytest.approx(4.0 - 1.5)


def test_the_level_of_an_adapter(
    tiny_model: Path, adapter: Path, data_file: Path, holdout_file: Path
) -> None:
    state = open_model(tiny_model, adapter)
    base = open_model(tiny_model)
    forget, unseen = (
        encode(Records.load(path), state.tokenizer, Template("qa"), 128)
        for path in (data_file, holdout_file)
    )

    def mean(model: object, examples: list) -> float:  # type: ignore[type-arg]
        return float(record_losses(*score_examples(model.model, model.head, examples)).mean())  # type: ignore[attr-defined]

    level = unseen_level(state, forget, unseen)
    assert level is not None
    expected = mean(base, forget) + mean(state, unseen) - mean(base, unseen)
    assert level.loss == pytest.approx(expected, abs=1e-5)
    assert level.trained == pytest.approx(mean(state, forget), abs=1e-5)
    assert level.scored == 2 * sum(len(example.ids) for example in [*forget, *unseen])
    alone = unseen_level(state, forget, [])
    assert alone is not None
    assert alone.loss == pytest.approx(mean(base, forget), abs=1e-5)
    # a full fine-tune has no base at hand
    full = unseen_level(base, forget, unseen)
    assert full is not None
    assert full.loss == pytest.approx(mean(base, unseen), abs=1e-5)
    assert unseen_level(base, forget, []) is None


def test_the_level_can_be_the_mean_of_the_holdout(
    tiny_model: Path, adapter: Path, data_file: Path, holdout_file: Path
) -> None:
    from unlearn.losses import GradAscent

    rules = {}
    for stop in ("auto", "holdout", "none"):
        state = open_model(tiny_model, adapter, trainable=True)
        forget, unseen = (
            encode(Records.load(path), state.tokenizer, Template("qa"), 128)
            for path in (data_file, holdout_file)
        )
        options = TrainingOptions(learning_rate=1e-6, max_steps=1, stop=stop)  # type: ignore[arg-type]
        rules[stop] = fit(
            state, Objective(GradAscent()), options, forget=forget, holdout=unseen
        ).rules
    assert "(the base's " in rules["auto"]
    assert "the effect on the holdout)" in rules["auto"]
    assert "the mean of the holdout" in rules["holdout"]
    assert rules["none"] == "none: all epochs"


def test_a_level_that_is_known_is_not_measured_again(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    from unlearn.losses import GradAscent

    state = open_model(tiny_model, adapter, trainable=True)
    forget = encode(Records.load(data_file), state.tokenizer, Template("qa"), 128)
    options = TrainingOptions(learning_rate=1e-6, max_steps=1)
    level = Level(77.0, "told", 1.0, scored=300)
    done = fit(state, Objective(GradAscent()), options, forget=forget, level=level)
    assert "77.00 (told)" in done.rules


def test_a_sample_is_spread_evenly() -> None:
    assert sample([*range(10)], 4) == [0, 3, 6, 9]  # type: ignore[list-item]
    assert len(sample([*range(100)])) == 64  # type: ignore[list-item]
