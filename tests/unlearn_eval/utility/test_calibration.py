from __future__ import annotations

import numpy as np
import pytest

from unlearn.batches import encode
from unlearn.demo import base_path, facts
from unlearn.errors import DataError, OptionError
from unlearn.models import open_model
from unlearn.records import Records
from unlearn.templates import Template
from unlearn_eval.scoring import score_model
from unlearn_eval.utility.calibration import TopProbability, calibration


def test_worked_by_hand():
    # two bins of two: (.2, .4) with one hit of two; (.6, .8) with two
    found = calibration([0.6, 0.2, 0.8, 0.4], [1, 0, 1, 1], bins=2)
    assert found.error == pytest.approx((abs(0.5 - 0.3) + abs(1 - 0.7)) / 2)
    assert found.brier == pytest.approx((0.16 + 0.04 + 0.04 + 0.36) / 4)
    assert (found.confidence, found.accuracy) == (pytest.approx(0.5), pytest.approx(0.75))
    assert (found.n, found.bins) == (4, 2)


def test_limits():
    assert calibration([0.7, 0.2, 0.6], [1, 0, 0], bins=1).error == pytest.approx(0.5 - 1 / 3)
    # a token a bin: mean |c − hit|
    assert calibration([0.7, 0.2], [1, 0], bins=9).error == pytest.approx((0.3 + 0.2) / 2)
    assert calibration([1.0], [True])[:2] == (0, 0)
    assert calibration([1.0], [False])[:2] == (1, 1)
    # sure and wrong half of the time: one value, one bin
    sure = calibration([1.0] * 8, [1, 0] * 4, bins=4)
    assert (sure.error, sure.brier, sure.bins) == (0.5, 0.5, 1)


def test_does_not_depend_on_the_order_of_tokens():
    rng = np.random.default_rng(0)
    c = rng.integers(0, 11, 400) / 10  # many ties
    hit = rng.random(400) < c
    found = calibration(c, hit)
    order = rng.permutation(400)
    np.testing.assert_allclose(calibration(c[order], hit[order]), found)


def test_a_calibrated_model_errs_little_and_an_overconfident_one_by_its_excess():
    rng = np.random.default_rng(1)
    c = rng.uniform(0.1, 0.9, 200_000)
    hit = rng.random(c.size) < c
    assert calibration(c, hit).error < 0.005
    assert calibration(c + 0.1, hit).error == pytest.approx(0.1, abs=0.005)
    assert calibration(c - 0.1, hit).error == pytest.approx(0.1, abs=0.005)
    # E (c − hit)² of a calibrated model is E c(1 − c)
    assert calibration(c, hit).brier == pytest.approx(float(np.mean(c * (1 - c))), abs=0.003)


@pytest.mark.parametrize(
    ("confidence", "hit", "message"),
    [
        ([], [], "confidence"),
        ([0.5], [1, 0], "1 confidences for 2"),
        ([-0.5], [1], "not between 0 and 1"),
        ([1.5], [1], "not between 0 and 1"),
        ([0.5], [0.5], "yes/no"),
    ],
)
def test_refuses_what_is_no_probability(confidence, hit, message):
    with pytest.raises(DataError, match=message):
        calibration(confidence, hit)
    with pytest.raises(OptionError, match="0 bins"):
        calibration([0.5], [1], bins=0)


def test_the_first_choice_of_a_live_model():
    state = open_model(base_path())
    rows = [
        *facts()[:5],
        {"id": "odd", "prompt": "Who are you?", "completion": "zz unheard of zz"},
    ]
    examples = encode(Records.from_rows(rows), state.tokenizer, Template("qa"), 128)
    watch = TopProbability(state.head, [e.targets for e in examples])
    scores = score_model(state.model, state.head, examples, token_budget=64, observe=watch.observe)
    own = np.exp(scores.log_prob)
    assert 0 < scores.hit.sum() < scores.hit.size
    np.testing.assert_allclose(watch.values[scores.hit], own[scores.hit], atol=1e-5)
    assert (watch.values[~scores.hit] > own[~scores.hit]).all()
    # it knows these facts, and knows that it does
    known = scores.offsets[5]
    assert calibration(watch.values[:known], scores.hit[:known]).error < 0.15
