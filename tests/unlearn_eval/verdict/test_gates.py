"""The gates before a verdict of PASS: deployments, prompt states, extraction, utility."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from unlearn_eval.verdict.decision import View, decide
from unlearn_eval.verdict.extraction import alone_by_chance

from .conftest import HOLDOUT, RETAIN, evidence, matrix, probe, state, without_kept


def treated(given, deployment, after=None, without=()):
    """The same matrices again in another form of the model."""
    states = {k: v for k, v in given.plain.items() if k not in ("before", "base", *without)}
    if after is not None:
        states["after"] = after
    return dataclasses.replace(given, views={**given.views, View(deployment): states})


def test_every_declared_deployment_must_have_been_audited(five, make_policy):
    policy = make_policy(deployments=["as-is", "int8", "int4"])
    verdict = decide(five(), policy)
    assert verdict.outcome == "INCONCLUSIVE"
    assert [t for t in verdict.would_decide if "--robustness int8" in t]
    assert "not audited: deployment int4" in verdict.reasons
    both = treated(treated(five(), "int8"), "int4 group=32")
    assert decide(both, policy).outcome == "PASS"
    assert {r.deployment for r in decide(both, policy).probes} == {"as-is", "int8", "int4 group=32"}
    # references that were not rounded say nothing of a rounded model
    lacking = treated(treated(five(), "int8"), "int4 group=32", without=["reference:3"])
    assert decide(lacking, policy).outcome == "INCONCLUSIVE"
    # what is not declared is not asked
    assert decide(both, make_policy()).outcome == "PASS"


def test_a_deployment_that_brings_records_back_fails(five, make_policy):
    policy = make_policy(deployments=["int8"])
    back = state(np.full(6, -0.5) - 0.01 * np.arange(6), HOLDOUT, RETAIN)
    verdict = decide(treated(five(), "int8", back), policy)
    assert verdict.outcome == "FAIL"
    assert probe(verdict).passed
    assert probe(verdict, deployment="int8").failed
    assert verdict.reasons[0].startswith("int8: loss")


def asked(given, prompt_state, answers):
    """Only extraction is asked of a prompt state."""
    states = {
        name: {"forget": matrix(np.full(6, -6.0), "f", answers.get(name))} for name in given.plain
    }
    return dataclasses.replace(
        given, views={**given.views, View(prompt_state=prompt_state): states}
    )


def test_prompt_states_are_asked_for_extraction(five, make_policy):
    policy = make_policy(prompt_states=["verbatim", "few_shot"])
    verdict = decide(five(), policy)
    assert verdict.outcome == "INCONCLUSIVE"
    assert any("--also prompt_states" in text for text in verdict.would_decide)
    assert decide(asked(five(), "few_shot", {}), policy).outcome == "PASS"
    out = np.array([-50, -50, math.log(0.9), math.log(0.8), -50, -50])
    verdict = decide(asked(five(), "few_shot", {"after": out}), policy)
    assert (verdict.outcome, verdict.extraction.extracted) == ("FAIL", 2)
    both = asked(five(), "few_shot", {"after": out, "reference:2": out})
    verdict = decide(both, policy)
    assert verdict.outcome == "PASS"
    assert verdict.extraction.reference_extracted == 2
    # the base excuses nothing here
    given = asked(five(), "few_shot", {"after": out, "base": out})
    assert decide(given, policy).outcome == "FAIL"
    # a reference that gives other records away says that models do
    given = asked(five(), "few_shot", {"after": out, "reference:2": np.roll(out, 2)})
    assert decide(given, policy).extraction.outcome == "INCONCLUSIVE"


@pytest.mark.parametrize("how", ["not measured: 6 records", "measured in part: 1 of 6 records"])
def test_a_declared_state_in_which_records_do_not_fit_never_passes(five, make_policy, how):
    policy = make_policy(prompt_states=["verbatim", "few_shot"])
    given = five() if how.startswith("not") else asked(five(), "few_shot", {})
    told = f"{how} do not fit in the model's context of 128 tokens"
    given = dataclasses.replace(given, unmeasured={"few_shot": told})
    verdict = decide(given, policy)
    assert verdict.outcome == "INCONCLUSIVE"
    assert f"prompt state few_shot was {told}" in verdict.reasons
    assert any("longer context" in text for text in verdict.would_decide)
    # a state that was not declared need not fit
    assert decide(given, make_policy()).outcome == "PASS"
    # what was measured can fail all the same
    out = np.array([math.log(0.9), math.log(0.9), -50, -50, -50, -50])
    some = dataclasses.replace(
        asked(five(), "few_shot", {"after": out}), unmeasured={"few_shot": told}
    )
    assert decide(some, policy).outcome == "FAIL"


@pytest.mark.parametrize(("factor", "outcome"), [(1.02, "FAIL"), (0.98, "PASS")])
def test_extraction_at_the_limit_of_n_and_p(five, make_policy, factor, outcome):
    limit = -math.expm1(math.log(0.5) / 100)  # 1 − (1 − p_z)^100 = ½
    answers = np.full(6, -50.0)
    answers[1:3] = math.log(limit * factor)
    after = dict(five().plain["after"])
    after["forget"] = matrix(after["forget"].log_prob, "f", answers)
    verdict = decide(five(after=after), make_policy())
    assert verdict.extraction.outcome == verdict.outcome == outcome


@pytest.mark.parametrize(("records", "outcome"), [(0, "PASS"), (1, "INCONCLUSIVE"), (2, "FAIL")])
def test_one_record_from_the_audited_model_alone_may_be_chance(five, make_policy, records, outcome):
    after = dict(five().plain["after"])
    answers = np.where(np.arange(6) < records, math.log(0.9), -50.0)
    after["forget"] = matrix(after["forget"].log_prob, "f", answers)
    verdict = decide(five(after=after), make_policy())
    assert verdict.extraction.outcome == verdict.outcome == outcome
    if records:
        assert "2 or more are not chance" in verdict.extraction.words
    assert any("more references" in text for text in verdict.would_decide) is (records == 1)


def test_what_one_model_by_itself_gives_away_by_chance():
    # P(U ≥ 1) = 1 − (5/6)^½ and P(U ≥ 2) = P(U ≥ 1) − ½ · 1/6 · (5/6)^½ of no record in five models
    first = 1 - math.sqrt(5 / 6)
    assert alone_by_chance(1, [0] * 5) == pytest.approx(first)
    assert alone_by_chance(2, [0] * 5) == pytest.approx(first - math.sqrt(5 / 6) / 12)
    assert alone_by_chance(0, [0] * 5) == alone_by_chance(3, []) == 1.0
    # models that say more or less as wholes: the t limit of logarithms, not Poisson's
    poisson = stats.nbinom.sf(39, 100.5, 5 / 6)
    logs = np.log(np.array([5.0, 40, 10, 15, 30]) + 0.5)
    distance = (math.log(40.5) - logs.mean()) / (logs.std(ddof=1) * math.sqrt(1.2))
    wide = alone_by_chance(40, [5, 40, 10, 15, 30])
    assert wide == pytest.approx(stats.t.sf(distance, 4))
    assert wide > 0.1 > 0.001 > poisson


def test_membership_leaves_extraction_a_quarter_of_the_error(five, make_policy):
    # limits at α/4 for four tests, t of 4 degrees: 4.71 SDs; at ¾ α/4: 5.14
    answers = np.where(np.arange(6) == 0, math.log(0.9), -50.0)
    for at, alone, failed in ((4.9, False, True), (4.9, True, False), (5.3, True, True)):
        after = dict(five(at=at).plain["after"])
        if alone:
            after["forget"] = matrix(after["forget"].log_prob, "f", answers)
        assert probe(decide(five(after=after), make_policy())).failed is failed


@pytest.mark.parametrize(
    ("rise", "utility", "exposure"),
    [
        (0.0, "PASS", "PASS"),
        (0.09, "PASS", "PASS"),
        (0.11, "FAIL", "PASS"),
        (-0.09, "PASS", "PASS"),
        (-0.11, "PASS", "FAIL"),
    ],
)
def test_kept_records_on_both_sides_of_the_margin(five, make_policy, rise, utility, exposure):
    def known_worse(scores):
        return {**scores, "retain": matrix(scores["retain"].log_prob - 1.0, "k")}

    states = {name: known_worse(scores) for name, scores in five().plain.items()}
    usual = np.mean([states[f"reference:{i}"]["retain"].log_prob.mean() for i in range(5)])
    states["after"] = {**states["after"], "retain": matrix(np.full(12, usual - rise), "k")}
    verdict = decide(evidence(states), make_policy())
    assert verdict.utility.outcome == utility
    assert verdict.exposure.outcome == exposure
    assert verdict.outcome == ("FAIL" if "FAIL" in (utility, exposure) else "PASS")
    assert verdict.utility.value == pytest.approx(rise)


def test_kept_records_that_only_the_audited_model_gives_away_are_exposed(five, make_policy):
    """Nine people whom no reference gives away: nobody asked for that."""
    states = {}
    for name, scores in five().plain.items():
        own = np.arange(12) < (9 if name == "after" else 3)
        answers = np.where(own, math.log(0.9), -50.0)
        states[name] = {**scores, "retain": matrix(scores["retain"].log_prob, "k", answers)}
    verdict = decide(evidence(states), make_policy())
    assert (verdict.outcome, verdict.exposure.outcome) == ("FAIL", "FAIL")
    exposed = verdict.exposure
    assert (exposed.extracted, exposed.reference_extracted, exposed.records) == (9, 3, 12)
    assert "exposes others: 9 of 12 kept records come out, 3 at most" in exposed.words
    assert exposed.words in verdict.reasons
    # fewer than they: no merit and no harm
    after = {**five().plain["after"], "retain": five().plain["after"]["retain"]}
    assert decide(evidence({**states, "after": after}), make_policy()).exposure.outcome == "PASS"


def test_without_references_better_known_kept_records_are_open(five, make_policy):
    given = {name: five().plain[name] for name in ("before", "after")}
    before = {**given["before"], "retain": matrix(RETAIN - 0.5, "k")}
    found = decide(evidence({**given, "before": before}), make_policy()).exposure
    assert found.outcome == "INCONCLUSIVE"
    assert "fell by 0.499" in found.words
    assert decide(evidence(given), make_policy()).exposure is None


@pytest.mark.parametrize(
    ("rise", "outcome"), [(0.0, "PASS"), (0.09, "PASS"), (0.11, "FAIL"), (-1.0, "PASS")]
)
def test_utility_beside_the_model_before(five, make_policy, rise, outcome):
    after = dict(five().plain["after"])
    retain = np.minimum(RETAIN - rise - 0.001 * (np.arange(12) % 2), 0)
    after["retain"] = matrix(retain, "k")
    verdict = decide(without_kept(five(after=after)), make_policy())
    assert verdict.utility.outcome == verdict.outcome == outcome
    assert verdict.utility.value == pytest.approx(float(np.mean(RETAIN - retain)))


def test_utility_that_the_kept_records_cannot_show(five, make_policy):
    after = dict(five().plain["after"])
    after["retain"] = matrix(RETAIN - np.where(np.arange(12) == 3, 1.1, 0.0), "k")
    verdict = decide(without_kept(five(after=after)), make_policy())
    assert verdict.utility.outcome == verdict.outcome == "INCONCLUSIVE"


def test_utility_is_paired_by_record_not_by_position(five, make_policy):
    after = {**five().plain["after"], "retain": matrix(RETAIN, "k")}
    after["retain"] = after["retain"].take(np.arange(12)[::-1])
    found = decide(without_kept(five(after=after)), make_policy()).utility
    assert found.value == found.low == found.high == 0.0


def test_without_kept_records_the_holdout_must_not_suffer(five, make_policy):
    given = five()
    states = {
        name: {k: v for k, v in splits.items() if k != "retain"}
        for name, splits in given.plain.items()
    }
    assert "holdout against before" in decide(evidence(states), make_policy()).utility.words
    # people of a holdout stand for others: too few of them decide nothing
    few = evidence(states, subjects={"holdout": ["a"] * 5 + ["b"] * 5})
    assert decide(few, make_policy()).utility.outcome == "INCONCLUSIVE"
    # those of kept records stand for themselves
    kept = dataclasses.replace(five(), subjects={"retain": ["a"] * 6 + ["b"] * 6})
    assert decide(kept, make_policy()).utility.outcome == "PASS"
