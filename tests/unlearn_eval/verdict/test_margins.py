"""Floors, unseen people, near copies and single records: what limits of references rest on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from unlearn_eval.statistics import prediction_limits
from unlearn_eval.verdict.decision import decide
from unlearn_eval.verdict.policy import load_policy
from unlearn_eval.verdict.power import power_statement
from unlearn_eval.verdict.tiers.model_statistics import model_statistic
from unlearn_eval.verdict.tiers.position import limits_of, position_among
from unlearn_eval.verdict.tiers.unseen_groups import MIN_GROUPS, unseen_groups

from .conftest import RETAIN, evidence, matrix, probe, state

GAMES = math.sqrt(4 * math.pi)


def test_limits_without_a_floor_are_those_of_the_margin():
    place = position_among(1.0, np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    limits = limits_of(place, 4.0, 0.05, 3.0)
    sd = math.sqrt(2.5)
    assert limits.equivalent == pytest.approx(prediction_limits(5, 4.0).equivalent * sd)
    assert limits.different == pytest.approx(3.0 * math.sqrt(1.2) * sd)


def test_a_floor_widens_where_references_agree_and_bars_a_fail_below_it():
    place = position_among(0.03, np.array([0.0, 0.001, 0.002, 0.003, 0.004]), floor=0.05)
    limits = limits_of(place, 4.0, 0.05, 3.0)
    sd = math.sqrt(2.5) / 1000
    inside = 0.05 - float(stats.t.isf(0.05, 4)) * math.sqrt(1.2) * sd
    assert limits.equivalent == pytest.approx(inside)
    assert limits.different == 0.05
    # where they differ much it changes nothing
    wide = position_among(0.03, np.array([0.0, 1.0, 2.0, 3.0, 4.0]), floor=0.05)
    assert limits_of(wide, 4.0, 0.05, 3.0) == limits_of(wide._replace(floor=0), 4.0, 0.05, 3.0)


def few_epochs(shift: float):
    """Five references that agree to .009 nats, and a model some nats away from them."""
    rng = np.random.default_rng(0)
    hard = {"forget": -3 + 0.5 * rng.normal(size=20), "holdout": -3 + 0.5 * rng.normal(size=100)}

    def model(by: float) -> dict:
        scores = {s: h + 0.015 * rng.normal(size=len(h)) for s, h in hard.items()}
        scores["forget"] = scores["forget"] + by
        return state(scores["forget"], scores["holdout"], RETAIN - 0.01 * rng.random())

    states = {"before": model(1.0), "after": model(shift)}
    return evidence(states | {f"reference:{i}": model(0.004 * (i - 2)) for i in range(5)})


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, "PASS"), (0.02, "PASS"), (0.17, "FAIL")])
def test_references_that_agree_fail_nobody_over_nothing(make_policy, shift, outcome):
    """.02 nats are like another recipe; .17 the least that was seen to leak on a real model."""
    policy = make_policy(floor=0.03)
    verdict = decide(few_epochs(shift), policy)
    assert verdict.outcome == outcome
    # without a floor, that is far outside
    if shift == 0.02:
        assert not probe(decide(few_epochs(shift), make_policy())).passed


def test_the_floor_is_what_moves_the_auc_by_as_much():
    """Two normal samples a floor apart: the AUC is ½ + f at most, and nearly that."""
    given = few_epochs(0.0)
    ready = model_statistic("loss", given.plain, "after", given.references, floor=0.03)
    floor = ready.floor(ready.forget, np.zeros(5))
    spreads = [np.std(given.plain[s]["holdout"].log_prob) for s in given.references]
    assert floor == pytest.approx(0.03 * GAMES * np.mean(spreads))
    auc = stats.norm.cdf(floor / (np.mean(spreads) * math.sqrt(2)))
    assert 0.0299 < auc - 0.5 <= 0.03


def test_floors_of_the_other_probes_are_the_same_nats():
    given = few_epochs(0.0)
    nats = model_statistic("loss", given.plain, "after", given.references, floor=0.03)
    floor = nats.floor(nats.forget, np.zeros(5))
    deviation = model_statistic("deviation", given.plain, "after", given.references, floor=0.03)
    values = np.stack([given.plain[s]["forget"].log_prob for s in given.references])
    medians = np.stack([np.median(np.delete(values, j, 0), axis=0) for j in range(5)])
    usual = np.abs(values - medians).mean()
    assert deviation.floor(deviation.forget, np.zeros(5)) == pytest.approx(
        math.log((usual + floor) / usual)
    )
    worst = model_statistic("worst_record", given.plain, "after", given.references, floor=0.03)
    low, high = (worst.floor(worst.forget, np.full(5, t)) for t in (0.0, 2.0))
    assert 0 < high < low  # on a logarithm, what is far up moves less


def people(shift: float = 0.0, unseen: int = 12, seed: int = 1, references: int = 5, **kw):
    """20 records of one person and 20 of each of some unseen ones; SD .1 a person and model."""
    rng = np.random.default_rng(seed)
    hard = -9 + rng.normal(size=20 * (unseen + 1))

    def model(shared: float = 0.0, common=None) -> np.ndarray:
        own = np.repeat(0.1 * rng.normal(size=unseen + 1), 20) + 0.1 * rng.normal(size=len(hard))
        return hard + (own if common is None else math.sqrt(1 - shared) * own + common)

    def split(values: np.ndarray, by: float = 0.0) -> dict:
        return state(values[:20] + by, values[20:], RETAIN - 0.01 * rng.random())

    states = {"before": split(model(), 3.0), "after": split(model(), shift)}
    states |= {f"reference:{i}": split(model(**kw)) for i in range(references)}
    labels = {"forget": ["me"] * 20, "holdout": list(np.repeat(np.arange(unseen), 20))}
    return evidence(states, subjects=labels)


def test_unseen_people_make_the_spread_steadier(make_policy):
    """Over many sets of five references the SD varies far less, and means the same."""
    sds = {True: [], False: []}
    for seed in range(40):
        given = people(seed=seed)
        for labelled in sds:
            subjects = given.subjects if labelled else {}
            shown = dataclasses.replace(given, subjects=subjects)
            sds[labelled].append(probe(decide(shown, make_policy())).reference_sd)
    true = math.hypot(0.1, 0.1 / math.sqrt(20), 0.1 / math.sqrt(12))
    for found in sds.values():
        assert np.mean(found) == pytest.approx(true, rel=0.12)
    assert np.std(sds[True]) < 0.4 * np.std(sds[False])


def test_who_may_stand_for_the_forgotten():
    labels = [name for name in "abcde" for _ in range(6)]
    groups = unseen_groups(["me"] * 4, labels)
    assert [list(group.records) for group in groups] == [[6 * i, *range(6 * i + 1, 6 * i + 4)]
                                                         for i in range(5)]  # fmt: skip
    assert all(len(group.rest) == 24 for group in groups)
    # two people of three records each: unseen pairs; the fifth is left over
    assert unseen_groups(["x"] * 3 + ["y"] * 3, labels) == []
    assert (
        len(unseen_groups(["x"] * 3 + ["y"] * 3, labels + ["f"] * 6 + ["g"] * 6 + ["h"] * 6)) == 4
    )
    # fewer than half the records are not of like size
    assert unseen_groups(["me"] * 13, labels) == []
    # one record stands for itself, whoever the others are
    assert len(unseen_groups([None], [None] * 7)) == 7
    assert len(unseen_groups(["me"], labels)) == 5
    # records of nobody in particular may belong together
    assert unseen_groups([None] * 4, labels) == []
    assert unseen_groups(["me"] * 4, [None] * 30) == []
    assert unseen_groups(["me"] * 6, labels[: 6 * (MIN_GROUPS - 1)]) == []


def replaced(given, make):
    """The same evidence with other references."""
    rng = np.random.default_rng(3)
    states = dict(given.plain)
    for name in given.references:
        forget, holdout = (given.plain[name][s].log_prob for s in ("forget", "holdout"))
        states[name] = {**given.plain[name], **state(*make(rng, forget, holdout))}
    return evidence(states, subjects=given.subjects)


def test_copies_of_the_forgotten_records_scores_bar_a_verdict(make_policy):
    """References that agree on these records alone, as if their scores had been chosen."""
    given = people(unseen=30)
    one = given.plain["reference:0"]["forget"].log_prob

    def alike(rng, forget, holdout):
        return one + holdout.mean() + 9 + 0.001 * rng.normal(size=20), holdout

    verdict = decide(replaced(given, alike), make_policy())
    assert verdict.outcome == "INCONCLUSIVE"
    assert "not independent" in verdict.reasons[0]
    assert verdict.gates[2].passed is False
    assert decide(given, make_policy()).gates[2].passed is True


def test_one_model_twice_bars_a_verdict(make_policy):
    """Two references from one seed: their spread is that of four models, counted as of five."""
    given = people()
    twice = dict(given.plain)
    rng = np.random.default_rng(3)
    twice["reference:3"] = {
        split: matrix(part.log_prob + 0.002 * rng.normal(size=part.records), split[0])
        for split, part in given.plain["reference:1"].items()
        if split != "retain"
    } | {"retain": given.plain["reference:3"]["retain"]}
    verdict = decide(evidence(twice, subjects=given.subjects), make_policy())
    assert verdict.outcome == "INCONCLUSIVE"
    assert "reference:1 and reference:3 give nearly the same scores" in verdict.reasons[0]


@pytest.mark.parametrize("left", [1, 20])
def test_one_record_that_was_left_is_no_pass(make_policy, left):
    """Three nats on one of twenty move the mean by .15, its SD: every mean would let it pass."""
    given = people()
    after = given.plain["after"]
    forget = after["forget"].log_prob + np.where(np.arange(20) < left, 3.0, 0.0)
    states = {**given.plain, "after": {**after, **state(forget, after["holdout"].log_prob)}}
    states["after"]["retain"] = after["retain"]
    found = decide(evidence(states, subjects=given.subjects), make_policy())
    assert found.outcome == "FAIL"
    assert probe(found, "worst_record").failed
    assert "above" in probe(found, "worst_record").words
    # a record pushed below the others' is no worst record; if all are, the deviation sees it
    low = after["forget"].log_prob - np.where(np.arange(20) < left, 3.0, 0.0)
    states["after"] = {**states["after"], **state(low, after["holdout"].log_prob)}
    states["after"]["retain"] = after["retain"]
    below = decide(evidence(states, subjects=given.subjects), make_policy())
    assert probe(below, "worst_record").passed
    assert probe(below, "deviation").failed is (left == 20)


def test_a_look_has_the_error_of_its_count():
    standard = load_policy("standard")[1]
    levels = [standard.level(k) for k in (3, 5, 6, 8, 9, 12, 30)]
    assert levels == [0.03, 0.03, 0.022, 0.022, 0.018, 0.018, 0.018]
    assert standard.alpha == 0.05
    assert "1.8 %" not in power_statement(standard, 20, 1, 100, 8)
    assert "2.2 %" in power_statement(standard, 20, 1, 100, 8)
    alone, beside = (power_statement(standard, 20, 1, 100, 8, people=n) for n in (0, 10))
    assert "win 3 games of 100 more" in alone
    # eight references show less of how much models vary than ten people in each of them
    assert "with probability 0.92 (all of them with 0.67 or more), within 2.14" in alone
    assert "unseen people as subjects of the holdout would" in alone
    assert "10 unseen people: a deleted model passes each of 5 tests" in beside
    assert "would make that sharper" not in beside
    least = [float(text.split("all of them with ")[1].split()[0]) for text in (alone, beside)]
    assert least[1] > least[0] + 0.1


def test_a_failing_form_is_named_and_copies_do_not_make_it_harder(make_policy):
    from unlearn_eval.verdict.decision import Evidence, View

    given = people(shift=0.62)  # between the limits of one test among 4 and of one among 12
    one = make_policy()
    three = make_policy(deployments=["as-is", "merge_bf16", "int8"])
    views = {View(form): given.plain for form in ("as-is", "merged bf16", "int8")}
    copies = Evidence(views, given.subjects)
    alone, together = decide(given, one), decide(copies, three)
    limits = [
        (r.failed, r.words.split("fails beyond ")[1])
        for v in (alone, together)
        for r in v.probes
        if r.probe == "loss"
    ]
    assert len(set(limits)) == 1
