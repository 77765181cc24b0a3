"""At what level each decision is taken, and in which direction: limits computed beside the code."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from unlearn_eval.statistics import (
    auc_interval,
    epsilon_bound,
    prediction_limits,
    sign_flip_test,
    twin_theta,
)
from unlearn_eval.verdict.decision import Evidence, Twins, View, decide
from unlearn_eval.verdict.evidence import PrivacyClaim
from unlearn_eval.verdict.outcomes import judge_utility, not_audited
from unlearn_eval.verdict.policy import is_form
from unlearn_eval.verdict.result import ProbeResult, Utility
from unlearn_eval.verdict.tiers.canaries import decide_by_canaries, judge_claim, judge_promise
from unlearn_eval.verdict.tiers.placing import Family, Place
from unlearn_eval.verdict.tiers.position import ReferencePosition
from unlearn_eval.verdict.tiers.references import decide_by_references
from unlearn_eval.verdict.tiers.subject import decide_by_rank
from unlearn_eval.verdict.tiers.twins import SplitScores, decide_by_twins, theta

from . import cases
from .cases import Models, beside, giving_away, ladder, planted, policy, seen, without
from .conftest import evidence, matrix, state


def kept(before: Any, after: Any, **others: Any) -> Evidence:
    """A model before and after, on kept records alone."""
    states = {"before": state([-6.0], None, before), "after": state([-6.0], None, after)}
    return evidence(states, **others)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_utility_rests_on_one_minus_two_alpha_and_on_who_belongs_together(alpha: float) -> None:
    rng = np.random.default_rng(0)
    before = -1 - rng.random(24)
    rise = 0.03 + 0.02 * rng.normal(size=24)
    found = judge_utility(kept(before, before - rise), policy(alpha=alpha))
    half = stats.t.isf(alpha, 23) * rise.std(ddof=1) / math.sqrt(24)
    assert (found.value, found.low, found.high) == pytest.approx(
        (rise.mean(), rise.mean() - half, rise.mean() + half)
    )
    assert (found.margin, found.outcome) == (0.1, "PASS")
    # twelve people of two records each: the mean of their means
    people = {"retain": [f"p{i // 2}" for i in range(24)]}
    found = judge_utility(kept(before, before - rise, subjects=people), policy(alpha=alpha))
    means = rise.reshape(12, 2).mean(axis=1)
    half = stats.t.isf(alpha, 11) * means.std(ddof=1) / math.sqrt(12)
    assert (found.low, found.high) == pytest.approx((rise.mean() - half, rise.mean() + half))


@pytest.mark.parametrize(("by", "outcome"), [(1.001, "PASS"), (0.999, "INCONCLUSIVE")])
def test_utility_passes_below_the_margin_and_fails_above(by: float, outcome: str) -> None:
    rise = 0.03 + 0.02 * np.cos(np.arange(24))
    given = kept(np.full(24, -1.0), -1.0 - rise)
    high = judge_utility(given, policy()).high
    low = judge_utility(given, policy()).low
    assert low is not None
    assert high is not None
    assert judge_utility(given, policy(utility_margin=high * by)).outcome == outcome
    below = judge_utility(given, policy(utility_margin=low / by)).outcome
    assert below == ("FAIL" if by > 1 else "INCONCLUSIVE")


def test_utility_in_words() -> None:
    found = judge_utility(kept([-1.0, -1.0, -1.0], [-1.2, -1.3, -1.25]), policy())
    half = stats.t.isf(0.05, 2) * 0.05 / math.sqrt(3)
    words = (
        f"retain against before: the loss rose by 0.250 [{0.25 - half:.3f}, {0.25 + half:.3f}] "
        "nats a token; up to 0.1 does not matter"
    )
    assert found.words == words
    one = judge_utility(kept([-1.0], [-1.5]), policy())
    note = "one record does not show how much records vary"
    words = f"retain against before: the loss rose by 0.500, without an interval: {note}"
    assert one == Utility(0.5, None, None, 0.1, words, "INCONCLUSIVE")
    lost = judge_utility(kept([-1.0, -1.0], [-1.5, -math.inf]), policy())
    assert (lost.value, lost.outcome) == (None, "INCONCLUSIVE")
    assert "the loss rose by inf, without an interval: a value is infinite" in lost.words
    both = judge_utility(kept([-1.0, -math.inf], [-1.5, -math.inf]), policy())
    words = "retain against before: both models rule a record out"
    assert both == Utility(None, None, None, 0.1, words, "INCONCLUSIVE")


def test_utility_without_the_model_before_is_against_full_references_alone() -> None:
    def model(level: float) -> dict[str, Any]:
        return state([-6.0], None, level - 0.01 * np.arange(4))

    states = {"after": model(-1.5), "reference:0": model(-1.0), "reference:1": model(-1.2)}
    found = judge_utility(evidence(states), policy())
    assert found.value == pytest.approx(0.4)
    assert found.words.startswith("retain against the references: the loss rose by 0.400")
    # one that saw part of them would excuse what was lost
    partial = evidence(states, partial=frozenset({"reference:1"}))
    assert judge_utility(partial, policy()).value == pytest.approx(0.5)
    none = evidence(states, partial=frozenset({"reference:0", "reference:1"}))
    words = "no model before to compare on: pass --before"
    assert judge_utility(none, policy()) == Utility(None, None, None, 0.1, words, "INCONCLUSIVE")
    words = "no kept or unseen records to compare on: pass --retain"
    nothing = evidence({"after": state([-6.0], None), "before": state([-6.0], None)})
    assert judge_utility(nothing, policy()) == Utility(None, None, None, 0.1, words, "INCONCLUSIVE")
    # the holdout stands in for kept records where there are none
    unseen = {
        "after": state([-6.0], [-3.0, -3.1]),
        "before": state([-6.0], [-2.0, -2.1], [-1.0]),
    }
    assert judge_utility(evidence(unseen), policy()).words.startswith("holdout against before")


@pytest.mark.parametrize(
    ("value", "passed", "failed", "outcome"),
    [
        (-1.2, False, False, "INCONCLUSIVE"),
        (-1.05, True, False, "PASS"),
        (-2.0, False, True, "FAIL"),
        # better known than by references is for exposure to judge
        (-0.9, False, False, "PASS"),
        (-0.2, False, True, "PASS"),
        (-1.0, False, True, "INCONCLUSIVE"),
    ],
)
def test_utility_among_references_looks_down_only(
    value: float, passed: bool, failed: bool, outcome: Any
) -> None:
    place = ProbeResult("kept", "", value, -1.1, -0.9, passed, failed, "", reference_mean=-1.0)
    words = (
        f"retain against the references: the loss is {-1 - value:+.3f} nats a token from their "
        "mean; up to 0.100 does not matter"
    )
    expected = Utility(pytest.approx(-1 - value), None, None, 0.1, words, outcome)
    assert judge_utility(kept([-1.0], [-1.0]), policy(), place) == expected
    infinite = replace(place, value=-math.inf)
    assert judge_utility(kept([-1.0], [-1.0]), policy(), infinite).value is None


ALPHAS = [(0.05, 0.05), (0.02, 0.015)]


@pytest.mark.parametrize(("alpha", "level"), ALPHAS)
def test_twins_pass_at_alpha_and_fail_at_what_is_left_of_it(alpha: float, level: float) -> None:
    given = beside(ladder(60), ladder(90))
    rules = policy(alpha=alpha, delta=0.2)
    x, y = ladder(60), ladder(90)
    narrow = auc_interval(x, y, 1 - 2 * alpha)
    for error in (level, None):
        loss, _ = decide_by_twins(given, rules, error).probes
        assert (loss.value, loss.low, loss.high) == pytest.approx(narrow[:3])
        assert (loss.passed, loss.failed) == (True, False)
        # by Holm, each of two probes at half of what is left
        wide = auc_interval(x, y, 1 - (alpha if error is None else error) / 2)
        assert f"fails if [{wide.low:.2f}, {wide.high:.2f}] lies outside" in loss.words
    # G1 by the strongest of two probes at error α/2, G2 at α
    before = auc_interval(np.linspace(-0.02, -0.01, 60), y, 1 - alpha)
    control, negative = decide_by_twins(given, rules, level).gates
    assert control.words == (
        f"before: θ is at least {before.low:.2f} by loss; more than 0.70 is needed"
    )
    assert (control.passed, negative.passed) == (True, True)
    # in the base, records like their twins: the deviation reaches a little further down
    away = [np.abs(v - np.median(np.delete(y, j) if own else y)) for v, own, j in
            [*((v, False, 0) for v in x), *((v, True, j) for j, v in enumerate(y))]]  # fmt: skip
    base = auc_interval(away[:60], away[60:], 1 - 2 * alpha)
    assert negative.words == (
        f"base: θ of deviation is {base.value:.2f} [{base.low:.2f}, {base.high:.2f}]; all of it "
        "must lie within [0.30, 0.70]"
    )


@pytest.mark.parametrize("side", [1, -1])
def test_twins_fail_on_either_side(side: int) -> None:
    given = beside(ladder(60) + 2 * side, ladder(90))
    loss = decide_by_twins(given, policy()).probes[0]
    assert loss.value is not None
    assert (loss.value > 0.5) is (side > 0)
    assert (loss.passed, loss.failed) == (False, True)


def test_the_negative_control_is_the_worst_of_all_probes_and_references() -> None:
    given = beside(ladder(60), ladder(90))
    good, bad = given.plain["base"], state(ladder(60) + 1.0, ladder(90))
    for first, second in ((good, bad), (bad, good)):
        states = {**given.plain, "reference:0": first, "reference:1": second}
        negative = decide_by_twins(seen(states), policy(delta=0.2)).gates[1]
        assert negative.passed is False
        which = "reference:1" if second is bad else "reference:0"
        assert negative.words.startswith(f"{which}: θ of loss is 0.7")
        assert negative.words.endswith(": the twins are not shown to be comparable")
    # where several are far, the farthest is named
    worse = state(ladder(60) + 2.0, ladder(90))
    states = {**given.plain, "reference:0": bad, "reference:1": worse}
    assert decide_by_twins(seen(states), policy()).gates[1].words.startswith("reference:1: θ of l")


def test_a_probe_that_cannot_be_computed_keeps_no_other_from_being_a_control() -> None:
    given = beside(ladder(60), ladder(90))
    states = without(given.plain, "base")
    states["reference:0"] = given.plain["base"]
    rules = policy(probes=["reference", "loss"], delta=0.2)
    found = decide_by_twins(seen(states), rules)
    assert [gate.passed for gate in found.gates] == [True, True]
    assert [probe.probe for probe in found.probes] == ["loss", "deviation", "reference"]
    assert found.probes[2].words == (
        "reference: no statistic: it compares with the base, which was not scored"
    )
    assert (found.probes[2].passed, found.probes[2].failed) == (False, False)


def test_records_of_a_person_are_one_observation_with_their_twins() -> None:
    """Beside their own twins, and all beside all."""
    rng = np.random.default_rng(34)
    x, y = rng.normal(size=24), rng.normal(size=24)
    order = rng.permutation(24)
    people, others = [f"p{i // 2}" for i in range(24)], [f"q{i // 2}" for i in range(24)]
    labels = {"forget": people, "holdout": others}
    matched = beside(x - 9, y - 9, subjects=labels, twins=Twins(order[:, None]))
    found = theta(matched, SplitScores(x, y), 0.9)
    assert found == twin_theta(x, y[order], 0.9, people)
    assert found.method == "cluster"
    found = theta(replace(matched, twins=None), SplitScores(x, y), 0.9)
    assert found == auc_interval(x, y, 0.9, people, others)
    assert (found.method, found.clusters) == ("cluster", 24)


def test_one_subject_has_no_theta() -> None:
    given = beside(ladder(3), ladder(9), subjects={"forget": ["me"] * 3})
    found = theta(given, SplitScores(ladder(3), ladder(9)), 0.9)
    assert (found.n, found.level, found.clusters) == (3, 0.9, 1)
    assert (found.method, found.note) == ("none", "one subject is one observation")
    assert math.isnan(found.value)


@pytest.mark.parametrize(("alpha", "level"), ALPHAS)
def test_canaries_pass_at_alpha_and_fail_at_what_is_left_of_it(alpha: float, level: float) -> None:
    given = planted(16, np.where(np.arange(16) < 11, 1.0, 0.0))
    assert given.twins is not None
    included = given.plain["after"]["forget"].log_prob
    left_out = given.plain["after"]["holdout"].log_prob[given.twins.positions[:, 0]]
    interval = twin_theta(included, left_out, 1 - 2 * alpha)
    centre = np.median(np.concatenate([included, left_out]))
    away = np.abs(included - centre) - np.abs(left_out - centre)
    p = [sign_flip_test(d, "two-sided").p_value for d in (included - left_out, away)]
    adjusted = min(1.0, 2 * min(p)) if p[0] <= p[1] else max(2 * p[1], p[0])
    rules = policy(alpha=alpha)
    loss = decide_by_canaries(given, rules, level).probes[0]
    assert (loss.value, loss.low, loss.high) == pytest.approx(interval[:3])
    assert loss.words.endswith(f"adjusted p of the sign flips = {adjusted:.3f}")
    # on both sides of the level, which by default is α
    for near, failed in ((adjusted, True), (adjusted * 0.999, False)):
        assert decide_by_canaries(given, rules, near).probes[0].failed is failed
    assert decide_by_canaries(given, rules).probes[0].failed is (adjusted <= alpha)
    before = twin_theta(np.linspace(-0.02, -0.01, 16), left_out, 1 - alpha)
    control = decide_by_canaries(given, rules).gates[0]
    needed = "more than 0.60 is needed"
    assert control.words == f"before: θ is at least {before.low:.2f} by loss; {needed}"
    assert control.passed is (before.low > 0.6)
    # what is barely above ½ − δ is no detection
    weak = seen({**given.plain, "before": given.plain["after"]}, twins=given.twins)
    control = decide_by_canaries(weak, rules).gates[0]
    assert control.passed is False
    assert 0.4 < float(control.words.split()[5]) < 0.6


def test_the_higher_score_is_the_guess_and_pairs_of_infinities_are_ties() -> None:
    low = np.where(np.arange(10) < 4, -math.inf, 0.0)
    given = planted(10, low)
    assert given.twins is not None
    left_out = given.plain["after"]["holdout"].log_prob.copy()
    left_out[given.twins.positions[:2, 0]] = -math.inf
    states = {**given.plain, "after": {**given.plain["after"], "holdout": matrix(left_out, "h")}}
    included = given.plain["after"]["forget"].log_prob
    others = left_out[given.twins.positions[:, 0]]
    order = np.sign([0.0 if a == b else a - b for a, b in zip(included, others, strict=True)])
    assert (order[:4].tolist(), abs(order[4:]).tolist()) == ([0, 0, -1, -1], [1.0] * 6)
    found = decide_by_canaries(seen(states, twins=given.twins), policy()).probes[0]
    p = sign_flip_test(order, "two-sided").p_value
    assert found.words.endswith(f"adjusted p of the sign flips = {p:.3f}")
    right = math.floor(np.sum(order > 0) + 1)  # two ties are one right guess
    rules = policy(epsilon=0.3)
    claim = judge_claim(seen(states, twins=given.twins), rules)
    assert claim is not None
    assert claim.value == pytest.approx(stats.binom.sf(right - 1, 10, 1 / (1 + math.exp(-0.3))))
    assert (claim.passed, claim.failed) == (True, False)


def test_a_claim_is_refuted_at_alpha() -> None:
    given = planted(20, 3.0)
    for epsilon in (0.5, 1.0, 1.5, 2.0, 3.0, 5.0):
        p = (1 / (1 + math.exp(-epsilon))) ** 20
        claim = judge_claim(given, policy(epsilon=epsilon))
        assert claim is not None
        assert claim.value == pytest.approx(p)
        assert (claim.passed, claim.failed) == (p > 0.05, p <= 0.05)
        word = "refuted" if p <= 0.05 else "not refuted"
        assert claim.words == f"claimed ε = {epsilon:g}: {word}, p = {p:.3f}"
    # α itself is enough
    for p in (0.05, 0.5**5):
        given, ours = planted(5, 3.0), policy(epsilon=0.0, alpha=p)
        claim = judge_claim(given, ours)
        assert claim is not None
        assert (claim.value, claim.failed) == (pytest.approx(1 / 32), True)
    assert judge_claim(given, policy()) is None
    untested = judge_claim(beside(ladder(9), ladder(9)), policy(epsilon=1.0))
    assert untested is not None
    assert (untested.passed, untested.failed, untested.value) == (False, False, None)


def test_a_lower_bound_above_the_claim_of_the_lineage_fails() -> None:
    bound = epsilon_bound(20, 20, 20, 1e-5, 0.95, 2).low
    assert 0.8 < bound < 1.0
    for epsilon in (bound - 0.01, bound + 0.01):
        claim = PrivacyClaim(epsilon, 1e-5, "person")
        given = replace(planted(20, 3.0), claim=claim)
        found = judge_promise(given, policy())
        assert found is not None
        refuted = epsilon < bound
        assert (found.passed, found.failed) == (not refuted, refuted)
        assert found.value == pytest.approx(bound, abs=1e-4)
        assert "claimed for adding or removing one person: " in found.words
        verdict = decide(given, policy())
        assert verdict.outcome == "FAIL"  # in any case: the canaries are known
        assert (found.words in verdict.reasons) == refuted
    assert judge_promise(planted(20, 3.0), policy()) is None
    claim = PrivacyClaim(1.0, 1e-5, "record")
    untested = judge_promise(replace(beside(ladder(9), ladder(9)), claim=claim), policy())
    assert untested is not None
    assert (untested.passed, untested.failed, untested.value) == (False, False, None)
    assert "not tested: it takes canaries, of which a coin included one" in untested.words


@pytest.mark.parametrize("level", [None, 0.05, 0.034, 0.0333])
def test_a_rank_fails_at_the_level_over_all_probes(level: float | None) -> None:
    # number 1 of 60 by two probes: Holm's p is 2/60 of each
    given, rules = cases.a_person_who_stands_out()
    found = decide_by_rank(given, rules, level)
    assert [probe.value for probe in found.probes] == pytest.approx([1 / 60, 1 / 60])
    failed = (0.05 if level is None else level) >= 2 / 60
    assert [probe.failed for probe in found.probes] == [failed, failed]
    assert not any(probe.passed for probe in found.probes)
    # exactly at the level, whatever binary makes of it
    assert all(probe.failed for probe in decide_by_rank(given, rules, 1 / 30).probes)


@pytest.mark.parametrize(("alpha", "k"), [(0.05, 5), (0.02, 5), (0.05, 7)])
def test_references_pass_at_alpha_and_fail_at_a_share_of_what_is_left(alpha: float, k: int) -> None:
    given = seen(Models(31).request(k=k))
    rules = policy(alpha=alpha)
    for level in (None, 0.75 * alpha):
        loss = decide_by_references(given, rules, level).probes[0]
        states = [given.plain[name] for name in ("after", *given.references)]
        values = np.array([s["forget"].log_prob.mean() - s["holdout"].log_prob.mean()
                           for s in states])  # fmt: skip
        sd = values[1:].std(ddof=1)
        half = prediction_limits(k, 4.0, alpha).equivalent * sd
        assert (loss.value, loss.reference_mean, loss.reference_sd, loss.k) == (
            pytest.approx(values[0]),
            pytest.approx(values[1:].mean()),
            pytest.approx(sd),
            k,
        )
        mean = values[1:].mean()
        assert (loss.low, loss.high) == pytest.approx((mean - half, mean + half))
        # four tests: loss, deviation, worst record and kept records
        beyond = stats.t.isf((level or alpha) / 4 / 2, k - 1) * math.sqrt(1 + 1 / k)
        assert f"fails beyond {beyond:.2f}" in loss.words


def test_a_place_without_a_distance_makes_no_other_form_easier_to_fail() -> None:
    def place(value: float, sd: float = 1.0, distance: float | None = None) -> Place:
        away = abs(value) if distance is None else distance
        position = ReferencePosition(value, 0.0, sd, 4, away, 1.0, 3.0)
        return Place(position, np.array([-1.0, 0.5, 0.5, 0.0]))

    views = [View(), View("int8"), View("nf4"), View("int4"), View("scale=0.5")]
    places = [place(3.0), "no score", place(-3.0), place(9.0, 0.0), place(9.0, 1.0, math.nan)]
    p = 2 * stats.t.sf(3 / math.sqrt(1.25), 3)
    assert Family("loss", views, places).p_values == pytest.approx([p, 1.0, p, 1.0, 1.0])
    # below the references is no trace by these
    assert Family("deviation", views, places).p_values == pytest.approx([p, 1, 1, 1, 1])
    assert Family("loss", views[:2], ["none", "none"]).p_values == [1.0, 1.0]


def test_two_forms_are_one_test_as_far_as_they_agree() -> None:
    def place(residuals: list[float], freedom: float) -> Place:
        return Place(ReferencePosition(2.0, 0, 1, 4, 2.0, 1.0, freedom), np.array(residuals))

    one, other = place([-1.0, 0.5, 0.5, 0.0], 5.0), place([-2.0, 1.0, 1.0, 0.0], 3.0)
    family = Family("loss", [View(), View("int8")], [one, other])
    assert family.largest.freedom == 3.0
    assert family.largest.limit(0.05) == pytest.approx(stats.t.isf(0.025, 3))
    apart = Family("loss", family.views, [one, place([0.0, 0.5, -0.5, 0.0], 3.0)])
    assert apart.largest.limit(0.05) > stats.t.isf(0.025, 3) * 1.1


def test_what_is_declared_and_was_not_audited_is_missing() -> None:
    states = Models(32).request(k=3)
    few = View("as-is", "few_shot")
    views = {View(): states, View("int8"): states, View("scale=0.5"): states,
             View("scale=2"): without(states, "reference:1"), few: states}  # fmt: skip
    given = Evidence(views, unmeasured={"chat_on": "measured in part"})
    rules = policy(
        deployments=["int8", "scale", "nf4"],
        prompt_states=["few_shot", "chat_on", "paraphrase:3", "role_play"],
    )

    def missing(by_references: bool, given: Evidence = given) -> dict[str, str]:
        return {m.reason: m.remedy for m in not_audited(given, rules, by_references)}

    again = "run `unlearn audit --robustness {}`, for the model and its references"
    expected = {
        "not audited: deployment nf4": "deployment nf4: " + again.format("nf4"),
        "prompt state chat_on was measured in part": (
            "prompt state chat_on: a model with a longer context, or a policy without this state"
        ),
        "not audited: prompt state paraphrase:3": (
            "prompt state paraphrase:3: run `unlearn audit --also prompt_states --paraphrases FILE`"
        ),
        "not audited: prompt state role_play": (
            "prompt state role_play: run `unlearn audit --also prompt_states`"
        ),
    }
    assert missing(by_references=False) == expected
    # references that decide must be there in every form
    scale = {"not audited: deployment scale": "deployment scale: " + again.format("scale")}
    assert missing(by_references=True) == expected | scale
    lacking = Evidence({**views, few: {"after": states["after"]}})
    assert "not audited: prompt state few_shot" in missing(True, lacking)
    assert "not audited: prompt state few_shot" not in missing(False, lacking)
    bare = Evidence({View(): without(states, "reference:0", split="forget") | {
        "after": states["after"]}})  # fmt: skip
    assert missing(True, bare)["not audited: deployment as-is"] == (
        "deployment as-is: run `unlearn audit`, for the model and its references"
    )
    assert not is_form("int8x", "int8")


def test_extraction_takes_a_quarter_of_alpha_shared_with_the_kept_records() -> None:
    """The loss lies between the limits at α/4 and at ¾ α/4 of a t of four degrees."""
    models = Models(33)
    states = models.request(k=5)
    names = ["after", *(f"reference:{i}" for i in range(5))]
    values = [states[n]["forget"].log_prob.mean() - states[n]["holdout"].log_prob.mean()
              for n in names]  # fmt: skip
    mean, sd = np.mean(values[1:]), np.std(values[1:], ddof=1)
    limits = [stats.t.isf(share * 0.05 / 8, 4) * math.sqrt(1.2) for share in (1.0, 0.75)]
    after = states["after"]["forget"].log_prob + mean + np.mean(limits) * sd - values[0]
    states["after"] = {**states["after"], "forget": matrix(after, "f")}
    for split, out, failed in (
        ("forget", {}, True),
        ("forget", {"after": (0,)}, False),
        ("forget", {"reference_2": (0,)}, False),
        # out of two models alike it is nobody's alone
        ("forget", {"after": (0,), "reference_2": (0,)}, True),
        ("retain", {"reference_2": (0,)}, False),
    ):
        changed = giving_away(states, split, **out)
        loss = next(r for r in decide(seen(changed), policy()).probes if r.probe == "loss")
        assert loss.failed is failed
    # two alone are not chance at α/4, and are at half of that where kept records are tested, too
    both = giving_away(states, "forget", after=(0, 1))
    alone = decide(seen(both), policy()).extraction
    assert alone is not None
    shared = decide(seen(giving_away(both, "retain", reference_1=(0,))), policy()).extraction
    assert shared is not None
    assert "2 or more are not chance" in alone.words
    assert ("2 or more" in shared.words) is False


def test_limits_belong_to_what_passes() -> None:
    """Ten pairs that are all tied: the interval ends where the margin does, exactly."""
    tied = np.full(10, -6.0)
    low = auc_interval(tied, tied, 1 - 2 * 0.05).low
    assert low == pytest.approx(0.1 ** (1 / 10) / 2)
    given = beside(tied, tied)
    states = {**given.plain, "base": given.plain["after"]}
    for delta, passed in ((0.5 - low, True), (0.999 * (0.5 - low), False)):
        found = decide_by_twins(seen(states), policy(delta=delta))
        assert found.probes[0].passed is passed
        assert found.gates[1].passed is passed
        assert found.gates[1].words.endswith("are not shown to be comparable") is not passed
    tied = np.full(40, -6.0)
    pairs = beside(tied, tied, twins=Twins(np.arange(40)[:, None], randomised=True))
    interval = twin_theta(tied, tied, 1 - 2 * 0.05)
    edge = 0.5 - interval.low
    assert (0.5 - edge, 0.5 + edge) == (interval.low, interval.high)
    for delta, passed in ((edge, True), (edge * 0.999, False)):
        assert decide_by_canaries(pairs, policy(delta=delta)).probes[0].passed is passed
