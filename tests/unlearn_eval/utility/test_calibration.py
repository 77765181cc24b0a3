from __future__ import annotations

import numpy as np
import pytest

from unlearn.apps.demo import base_path, facts
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import encode
from unlearn.errors import DataError, OptionError
from unlearn.model.state import open_model
from unlearn_eval.scores.model_scores import score_model
from unlearn_eval.utility.calibration import calibration, calibration_intervals


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


def draws(make_scores, rng, records, *, excess=0.0, spread=0.0):
    """Scores of records of 1 to 9 tokens whose confidences are `excess` too high.

    Each record is off by a deviation of its own besides, with standard deviation `spread`.
    """
    lengths = rng.integers(1, 10, records)
    c = rng.uniform(0.3, 0.7, lengths.sum())
    off = np.repeat(rng.normal(0, spread, records), lengths)
    hit = rng.random(c.size) < np.clip(c - excess + off, 0, 1)
    log_p = np.split(np.log(c), np.cumsum(lengths)[:-1])
    return make_scores([list(x) for x in log_p], hit=hit, top=np.log(c))


def test_intervals_by_hand(make_scores):
    # one bin: g = mean(hit − c) over the 4 tokens of 2 records, in sums .4 − .2 = and −.9
    scores = make_scores([[-1.0], [-1.0] * 3], hit=[1, 0, 0, 1], top=np.log([0.6, 0.4, 0.6, 0.9]))
    found = calibration_intervals(scores, bins=1)["ece"]
    gap = (0.4 - 0.4 - 0.6 + 0.1) / 4
    assert found.value == pytest.approx(-gap)
    # residuals (0.4 − 1·g)/4 and (−0.9 − 3·g)/4; t with one degree of freedom is 12.706
    se = np.sqrt(2 * (((0.4 - gap) / 4) ** 2 + ((-0.9 - 3 * gap) / 4) ** 2))
    assert found.high == pytest.approx(min(1.0, -gap + 12.7062 * se), abs=1e-4)
    assert (found.low, found.n, found.method) == (0, 2, "t")
    brier = calibration_intervals(scores)["brier"]
    assert brier.value == pytest.approx((0.16 + 0.16 + 0.36 + 0.01) / 4)


@pytest.mark.parametrize(
    ("excess", "spread"),
    [
        (0.0, 0.0),
        (0.2, 0.15),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((0.05, 0.0), (0.2, 0.0), (0.0, 0.15), (0.05, 0.15))
        ),
    ],
)
def test_intervals_cover(make_scores, excess, spread):
    rng = np.random.default_rng(7)
    inside = {"ece": 0, "brier": 0}
    # E (c − hit)² with P(hit) = c − excess + off, c uniform on (.3, .7)
    square, mean = (0.7**3 - 0.3**3) / (3 * 0.4), 0.5
    brier = square + (mean - excess) - 2 * (square - excess * mean)
    truth = {"ece": excess, "brier": brier}
    runs = 300
    for _ in range(runs):
        found = calibration_intervals(draws(make_scores, rng, 40, excess=excess, spread=spread))
        for name, interval in found.items():
            inside[name] += interval.low <= truth[name] <= interval.high
    assert inside["ece"] >= 0.93 * runs
    assert 0.90 * runs <= inside["brier"]


def test_an_interval_shows_what_is_miscalibrated(make_scores):
    rng = np.random.default_rng(3)
    found = [
        calibration_intervals(draws(make_scores, rng, 200, excess=0.2))["ece"] for _ in range(40)
    ]
    assert sum(interval.low > 0.05 for interval in found) > 30


def test_clusters_widen_the_interval_and_one_record_gives_none(make_scores):
    scores = draws(make_scores, np.random.default_rng(5), 60, excess=0.2, spread=0.2)
    plain = calibration_intervals(scores)["ece"]
    few = calibration_intervals(scores, clusters=["a", "b"] * 30)["ece"]
    assert few.method == "conditional"
    assert (few.low, few.high) == (plain.low, plain.high)
    many = calibration_intervals(scores, clusters=[i // 5 for i in range(60)])["ece"]
    assert (many.method, many.clusters) == ("cluster", 12)
    assert many.high != plain.high
    one = calibration_intervals(scores.take([0]))["ece"]
    assert (one.method, np.isnan(one.low)) == ("none", True)
    with pytest.raises(DataError, match="first choice"):
        calibration_intervals(make_scores([[-1.0]]))


def test_the_first_choice_of_a_live_model():
    state = open_model(base_path())
    rows = [
        *facts()[:5],
        {"id": "odd", "prompt": "Who are you?", "completion": "zz unheard of zz"},
    ]
    examples = encode(Records.from_rows(rows), state.tokenizer, Template("qa"), 128)
    scores = score_model(state.model, state.head, examples, token_budget=64)
    assert scores.top is not None
    assert 0 < scores.hit.sum() < scores.hit.size
    np.testing.assert_allclose(scores.top[scores.hit], scores.log_prob[scores.hit], atol=1e-5)
    assert (scores.top[~scores.hit] > scores.log_prob[~scores.hit]).all()
    # it knows these facts, and knows that it does
    known = scores.offsets[5]
    assert calibration(np.exp(scores.top[:known]), scores.hit[:known]).error < 0.15
