"""Tier A, by hand, on both sides of every limit."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.statistics import prediction_limits
from unlearn_eval.verdict.decision import ProvenanceFact, View, decide, leave_one_out
from unlearn_eval.verdict.tiers.model_statistics import model_statistic, worst
from unlearn_eval.verdict.tiers.position import position_among

from .conftest import HOLDOUT, RETAIN, SHIFTS, evidence, matrix, probe, reference, state


def values_of(probe, states, judged, references, **options):
    ready = model_statistic(probe, states, judged, references, **options)
    return ready.statistic(ready.forget, ready.holdout)


def test_the_statistic_is_the_difference_to_the_holdout_of_the_same_model():
    states = {
        "after": state([-1.0, -3.0], [-5.0, -7.0, -6.0]),
        # everything a nat worse: nothing that sets the records apart
        "reference:0": state([-2.0, -4.0], [-6.0, -8.0, -7.0]),
    }
    assert values_of("loss", states, "after", ["reference:0"]).tolist() == [4.0, 4.0]


def test_deviation_by_hand():
    references = {f"reference:{j}": state([v], [w]) for j, (v, w) in enumerate([
        (-1.0, -10.0), (-2.0, -11.0), (-4.0, -13.0)])}  # fmt: skip
    states = {"after": state([-9.0], [-10.0]), **references}
    found = values_of("deviation", states, "after", list(references))
    # audited: forget |−9 − (−3, −2.5, −1.5)|, holdout |−10 − (−12, −11.5, −10.5)|
    ours = math.log((6 + 6.5 + 7.5) / 3) - math.log((2 + 1.5 + 0.5) / 3)
    # reference 0: |−1 − (−3)| and |−10 − (−12)|; the holdout moves as the forget record does
    assert found == pytest.approx([ours, 0.0, 0.0, 0.0])
    with pytest.raises(DataError, match="3 references"):
        values_of("deviation", states, "after", ["reference:0", "reference:1"])


def test_the_worst_record_by_hand():
    """Of four models (the first is judged) that agree on the holdout, one record sticks out."""
    values = np.array([
        [-4.0, -6.0, -6.0, -6.0],
        [-6.0, -5.0, -6.0, -6.0],
        [-6.2, -5.2, -6.0, -6.0],
        [-6.6, -5.6, -6.0, -6.0],
    ])  # fmt: skip
    found = worst(values, np.array([2, 3]))(np.array([0, 1]), np.array([2, 3]))
    # the other two references of each choice differ by .4, .6 and .2: SD that / √2; both records
    # vary alike, so the variances are shrunken to their mean, which is their own
    medians, sds = np.array([-6.4, -6.3, -6.1]), np.array([0.4, 0.6, 0.2]) / math.sqrt(2)
    assert found[0] == pytest.approx(np.mean(np.arcsinh((-4.0 - medians) / sds)))
    own = (np.array([-6.0, -6.2, -6.6]) - medians) / sds
    assert found[1:] == pytest.approx(np.arcsinh(own))


def test_the_worst_record_does_not_depend_on_levels(five):
    scores = five().plain
    moved = {name: lower(splits, 0.3 * i) for i, (name, splits) in enumerate(scores.items())}
    names = five().references
    one, other = (values_of("worst_record", s, "after", names) for s in (scores, moved))
    assert one == pytest.approx(other)


def test_place_by_hand():
    found = position_among(5.0, np.array([1.0, 2.0, 3.0]))
    assert (found.mean, found.sd, found.k, found.distance) == (2.0, 1.0, 3, 3.0)
    assert found.p_value == pytest.approx(2 * stats.t.sf(3 / math.sqrt(4 / 3), 2))
    assert found.freedom == 2


def test_place_without_spread_can_be_equal_but_never_different():
    same = np.array([0.1 + 0.2, 0.3, 0.3])
    assert position_among(0.3, same)[3:6] == (3, 0.0, 1.0)
    away = position_among(0.9, same)
    assert math.isnan(away.distance)
    assert away.p_value == 1.0
    assert position_among(0.0, np.zeros(4)).distance == 0.0


def test_place_of_infinities():
    far = position_among(-math.inf, np.array([1.0, 2.0, 3.0]))
    assert (far.distance, far.p_value) == (math.inf, 0.0)
    assert math.isnan(position_among(math.nan, np.array([1.0, 2.0])).mean)
    assert math.isnan(position_among(1.0, np.array([1.0, math.inf])).distance)


LIMITS = prediction_limits(5, 4.0)
# four tests (loss, deviation, worst record, kept records): while all are undecided, α/4 each
BEYOND = float(stats.t.isf(0.05 / 8, 4) * math.sqrt(1.2))


@pytest.mark.parametrize(
    ("at", "passed", "failed"),
    [
        (LIMITS.equivalent - 0.001, True, False),
        (-LIMITS.equivalent + 0.001, True, False),
        (LIMITS.equivalent + 0.001, False, False),
        (BEYOND - 0.001, False, False),
        (BEYOND + 0.001, False, True),
        (-BEYOND - 0.001, False, True),
    ],
)
def test_limits_of_pass_and_fail(five, make_policy, at, passed, failed):
    found = probe(decide(five(at), make_policy()))
    assert (found.passed, found.failed) == (passed, failed)
    sd = float(np.std(SHIFTS, ddof=1))
    assert found.value == pytest.approx(at * sd)
    assert (found.reference_mean, found.reference_sd) == pytest.approx((0.0, sd))
    assert found.high == pytest.approx(LIMITS.equivalent * sd)
    assert found.k == 5
    assert f"fails beyond {BEYOND:.2f}" in found.words


def test_a_deleted_model_passes_and_the_words_say_why(five, make_policy):
    verdict = decide(five(), make_policy(), name="mine", chosen="before", created="now")
    assert (verdict.outcome, verdict.tier) == ("PASS", "A")
    assert verdict.would_decide == []
    assert [gate.passed for gate in verdict.gates] == [None, True, None]
    content = verdict.as_dict()
    assert list(content) == [
        "schema", "outcome", "tier", "reasons", "would_decide", "policy", "gates", "probes",
        "extraction", "utility", "power", "exposure", "counts", "audit_sha256", "created",
        "replay",
    ]  # fmt: skip
    assert content["policy"]["name"] == "mine"
    assert content["policy"]["chosen"] == "before"
    assert content["counts"] == {"forget": 6, "holdout": 10, "subjects": None, "references": 5}
    assert {p["probe"] for p in content["probes"]} == {"loss", "deviation", "worst_record"}
    assert content["extraction"]["outcome"] == content["utility"]["outcome"] == "PASS"


def test_between_the_limits_more_references_would_decide(five, make_policy):
    verdict = decide(five(2.2), make_policy())
    assert verdict.outcome == "INCONCLUSIVE"
    (advice,) = [text for text in verdict.would_decide if "loss" in text]
    k = int(advice.split()[1])
    assert "(PASS)" in advice
    assert prediction_limits(k, 4.0).equivalent >= 2.2
    assert prediction_limits(k - 1, 4.0).equivalent < 2.2


@pytest.mark.parametrize("forget", [np.full(6, -0.01), np.full(6, -14.0)])
def test_left_in_and_pushed_below_both_fail(five, make_policy, forget):
    after = state(forget - 0.001 * np.arange(6), HOLDOUT, RETAIN)
    verdict = decide(five(after=after), make_policy())
    assert verdict.outcome == "FAIL"
    assert probe(verdict).failed


def test_half_left_in_half_pushed_below_fails_by_deviation_alone(five, make_policy):
    forget = -6.0 + np.array([5.0, -5.0] * 3)
    verdict = decide(five(after=state(forget, HOLDOUT, RETAIN)), make_policy())
    assert probe(verdict).passed
    assert probe(verdict, "deviation").failed
    assert verdict.outcome == "FAIL"


def test_records_nearer_to_the_median_than_in_references_do_not_fail(five, make_policy):
    # all that deviates is the holdout: no trace of the records
    middle = np.median([reference(s, i)["forget"].log_prob for i, s in enumerate(SHIFTS)], axis=0)
    holdout = HOLDOUT + np.array([5.0, -5.0] * 5)
    found = probe(decide(five(after=state(middle, holdout, RETAIN)), make_policy()), "deviation")
    assert found.reference_mean - found.value > BEYOND * found.reference_sd
    assert (found.passed, found.failed) == (True, False)


def test_without_the_model_before_there_is_no_positive_control(five, make_policy):
    given = five()
    states = {k: v for k, v in given.plain.items() if k != "before"}
    verdict = decide(evidence(states), make_policy())
    assert verdict.outcome == "INCONCLUSIVE"
    assert any("--before" in text for text in verdict.would_decide)
    # utility: the references stand in
    assert verdict.utility.outcome == "PASS"
    assert "references" in verdict.utility.words


@pytest.mark.parametrize(("sds", "passed"), [(7.99, False), (8.01, True), (-8.01, True)])
def test_the_positive_control_takes_twice_the_margin(five, make_policy, sds, passed):
    given = five()
    sd = float(np.std(SHIFTS, ddof=1))
    # the same noise as a reference's, so that deviation does not see it first
    before = reference(sds * sd, 3)
    verdict = decide(evidence({**given.plain, "before": before}), make_policy())
    assert verdict.gates[1].passed is passed
    assert verdict.outcome == ("PASS" if passed else "INCONCLUSIVE")


def test_a_failed_positive_control_does_not_save_a_model_that_fails(five, make_policy):
    given = five(20.0)
    verdict = decide(evidence({**given.plain, "before": reference(0.0, 3)}), make_policy())
    assert verdict.gates[1].passed is False
    assert verdict.outcome == "FAIL"


def test_what_may_be_the_recipe_fails_no_model_that_never_saw_the_records(five, make_policy):
    """By its lineage it is exact; references made otherwise cannot say that it is not."""
    verdict = decide(five(-30.0, recipe=("learning_rate", "epochs")), make_policy())
    assert verdict.outcome == "INCONCLUSIVE"
    assert "(learning_rate, epochs): what sets it apart may be the recipe" in verdict.reasons[0]
    assert any("unlearn references --like" in text for text in verdict.would_decide)
    assert decide(five(-30.0), make_policy()).outcome == "FAIL"
    assert decide(five(recipe=("epochs",)), make_policy()).outcome == "PASS"
    # what comes out of it and of no other is no matter of a recipe
    answers = np.where(np.arange(6) < 3, math.log(0.9), -50.0)
    after = dict(five(-30.0).plain["after"])
    after["forget"] = matrix(after["forget"].log_prob, "f", answers)
    assert decide(five(after=after, recipe=("epochs",)), make_policy()).outcome == "FAIL"


@pytest.mark.parametrize("agrees", [True, None, False])
def test_facts_that_do_not_hold_end_it(five, make_policy, agrees):
    for at in (0.3, -30.0):
        verdict = decide(
            five(at, facts=[ProvenanceFact("the weights are those", agrees)]), make_policy()
        )
        usual = "PASS" if at > 0 else "FAIL"
        assert verdict.outcome == ("INCONCLUSIVE" if agrees is False else usual)
        assert verdict.gates[0].passed is (agrees or (None if agrees is None else False))
        assert "the weights are those" in verdict.gates[0].words


def test_one_record_is_enough_with_references(make_policy):
    def one(value):
        return state([value], HOLDOUT, RETAIN)

    values = (-6.3, -6.1, -5.9, -6.0, -5.8)
    states = {"before": one(-0.01), "after": one(-6.05)}
    states |= {f"reference:{i}": one(v) for i, v in enumerate(values)}
    for i in range(5):  # a holdout that varies, else deviation has no spread to compare with
        states[f"reference:{i}"]["holdout"] = reference(0.0, i)["holdout"]
    states["after"]["holdout"] = reference(0.0, 8)["holdout"]
    assert probe(decide(evidence(states), make_policy())).passed
    states["after"] = one(-0.5)
    assert decide(evidence(states), make_policy()).outcome == "FAIL"


def test_without_a_holdout_nothing_can_be_compared(five, make_policy):
    states = {
        name: {k: v for k, v in splits.items() if k != "holdout"}
        for name, splits in five().plain.items()
    }
    verdict = decide(evidence(states), make_policy())
    assert verdict.outcome == "INCONCLUSIVE"
    assert any("--holdout" in text for text in verdict.would_decide)
    assert not any(r.passed or r.failed for r in verdict.probes)


def test_an_infinite_score_fails_or_refuses_but_never_passes(five, make_policy):
    forget = np.array([-6.0, -6.1, -5.9, -6.0, -6.0, -math.inf])
    verdict = decide(five(after=state(forget, HOLDOUT, RETAIN)), make_policy())
    assert verdict.outcome == "FAIL"  # no reference rules a record out
    assert verdict.as_dict()["probes"][0]["value"] is None
    broken = HOLDOUT.copy()
    broken[0] = -math.inf
    found = probe(decide(five(after=state(forget, broken, RETAIN)), make_policy()))
    assert (found.passed, found.failed) == (False, False)
    assert "infinite" in found.words
    assert "'f5'" not in str(decide(five(after=state(forget, broken)), make_policy()).as_dict())


def test_too_few_references_are_not_used(five, make_policy):
    assert decide(five(), make_policy(min_references=5)).tier == "A"
    verdict = decide(five(), make_policy(min_references=6))
    assert verdict.tier == "C"
    assert any("6 references" in text and "there are 5" in text for text in verdict.would_decide)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_one_or_two_references_do_not_decide(five, make_policy, k):
    gone = [f"reference:{i}" for i in range(k, 5)]
    states = {name: splits for name, splits in five().plain.items() if name not in gone}
    verdict = decide(evidence(states), make_policy())
    assert verdict.tier == "C"
    assert verdict.outcome == "INCONCLUSIVE"


def test_holm_spares_what_one_test_alone_would_fail(five, make_policy):
    alone = float(stats.t.isf(0.05 / 2, 4) * math.sqrt(1.2))
    found = probe(decide(five((alone + BEYOND) / 2), make_policy()))
    assert not found.failed


def lower(scores, by):
    """The same model, less sure of everything by some nats."""
    return {
        split: dataclasses.replace(part, log_prob=part.log_prob - by)
        for split, part in scores.items()
    }


def halves(given, by=0.5):
    """The same references, had they been trained on half of the kept records."""
    states = {
        name: lower(scores, by * (1 + i / 10)) if name.startswith("reference") else scores
        for i, (name, scores) in enumerate(given.plain.items())
    }
    return dataclasses.replace(given, views={View(): states}, partial=frozenset(given.references))


def test_the_level_of_half_trained_references_is_not_compared(five, make_policy):
    """By hand: what moves all records of a model alike moves no statistic."""
    plain = dataclasses.replace(five(), partial=frozenset(five().references))
    for at in (0.3, 1.5, 6.0):
        given = dataclasses.replace(five(at), partial=plain.partial)
        mine, moved = decide(given, make_policy()), decide(halves(five(at)), make_policy())
        assert moved.outcome == mine.outcome
        for one, other in zip(mine.probes, moved.probes, strict=True):
            assert other.value == pytest.approx(one.value)
            assert other.reference_sd == pytest.approx(one.reference_sd)
    # taken for full-size ones, they make a deleted model look as if it deviated less than it does
    taken = dataclasses.replace(halves(five(), by=3.0), partial=frozenset())
    assert probe(decide(taken, make_policy()), "deviation").value != pytest.approx(
        probe(decide(halves(five(), by=3.0), make_policy()), "deviation").value, abs=0.1
    )


def test_half_trained_references_are_said(five, make_policy):
    verdict = decide(halves(five()), make_policy())
    assert verdict.outcome == "PASS"
    assert "5 references (all trained on part of the kept records only)" in verdict.power
    assert "5 of 5 references were trained on part of the kept records" in verdict.reasons[-1]
    some = dataclasses.replace(halves(five()), partial=frozenset({"reference:1"}))
    assert "(1 trained on part of" in decide(some, make_policy()).power
    assert "trained on part" not in decide(five(), make_policy()).power


def test_half_trained_references_do_not_excuse_a_loss_of_utility(five, make_policy):
    """They know the kept records worse, so a model that lost them would look as good."""
    given = halves(five())
    states = {k: v for k, v in given.plain.items() if k != "before"}
    without = dataclasses.replace(given, views={View(): states})
    utility = decide(without, make_policy()).utility
    assert (utility.outcome, utility.value) == ("INCONCLUSIVE", None)
    full = dataclasses.replace(without, partial=without.partial - {"reference:4"})
    assert "the references" in decide(full, make_policy()).utility.words
    assert decide(full, make_policy()).utility.value is not None


def test_leave_one_out_judges_each_reference_by_the_others(five, make_policy):
    found = leave_one_out(five(), make_policy(min_references=5))
    assert sum(found.counts.values()) == len(found.verdicts) == 5
    assert found.counts["FAIL"] == 0
    assert {v.tier for v in found.verdicts} == {"A"}
    assert {probe(v).k for v in found.verdicts} == {4}
    means = [probe(v).reference_mean for v in found.verdicts]
    assert means == pytest.approx([-s / 4 for s in SHIFTS])
    # a reference that did see the records stands out
    saw = state(np.full(6, -0.5) - 0.01 * np.arange(6), HOLDOUT, RETAIN)
    found = leave_one_out(evidence({**five().plain, "reference:1": saw}), make_policy())
    assert [v.outcome for v in found.verdicts][1] == "FAIL"
    with pytest.raises(DataError, match="3 are needed"):
        leave_one_out(evidence({"after": reference(0.0, 1)}), make_policy())


def test_a_verdict_names_no_record(five, make_policy):
    text = str(decide(five(), make_policy()).as_dict())
    assert not any(f"'f{i}'" in text or f"f{i} " in text for i in range(6))
