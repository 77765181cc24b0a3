"""Tiers B and C, by hand, on both sides of every limit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.statistics import auc_interval, sign_flip_test, twin_theta
from unlearn_eval.verdict.decision import Evidence, Twins, View, decide
from unlearn_eval.verdict.tiers.canaries import guesses_refute

from .conftest import RETAIN, evidence, state


def probe(verdict, name="loss"):
    (found,) = [r for r in verdict.probes if r.probe == name]
    return found


def ladder(n, low=-8.0, high=-4.0, offset=0.0):
    """Values that cover a range evenly."""
    return low + (high - low) * (np.arange(n) + 0.5 + offset) / n


def alike(n=200, m=400):
    """Forgotten and unseen records of the same distribution: θ = ½ by every probe."""
    return ladder(n), ladder(m)


def known(n):
    return np.linspace(-0.02, -0.01, n)


def request(after, holdout, subjects=None, before=None, base=None, **others):
    n = len(after)
    states = {
        "before": state(known(n) if before is None else before, holdout, RETAIN),
        "after": state(after, holdout, RETAIN),
        "base": state(*(base or alike(n, len(holdout))), RETAIN),
    }
    return evidence(states, subjects=subjects or {}, **others)


def test_records_like_their_twins_pass(make_policy):
    verdict = decide(request(*alike()), make_policy())
    assert (verdict.outcome, verdict.tier) == ("PASS", "C")
    assert [gate.passed for gate in verdict.gates] == [None, True, True]
    found = probe(verdict)
    limits = auc_interval(*alike(), level=0.9)
    assert (found.value, found.low, found.high) == pytest.approx(limits[:3])
    assert "no record has a subject: all were taken to be independent" in verdict.reasons


def test_the_interval_must_lie_within_the_margin(make_policy):
    found = auc_interval(*alike(), level=0.9)
    half = max(0.5 - found.low, found.high - 0.5)
    for factor, passed in ((1.001, True), (0.999, False)):
        policy = make_policy(delta=half * factor)
        assert probe(decide(request(*alike()), policy)).passed is passed


def test_few_records_are_inconclusive_and_told_how_many_would_do(make_policy):
    verdict = decide(request(*alike(20, 40)), make_policy())
    assert verdict.outcome == "INCONCLUSIVE"
    assert any("108 independent records with 2 twin(s)" in text for text in verdict.would_decide)
    assert any("3 references" in text for text in verdict.would_decide)


@pytest.mark.parametrize(
    ("after", "name"),
    [
        (known(200), "loss"),
        (ladder(200, -15, -13), "loss"),
        (np.concatenate((ladder(100, -3, -1), ladder(100, -11, -9))), "deviation"),
    ],
)
def test_left_in_pushed_below_and_half_of_each_fail(make_policy, after, name):
    verdict = decide(request(after, alike()[1]), make_policy())
    assert verdict.outcome == "FAIL"
    assert probe(verdict, name).failed
    assert probe(verdict).failed is (name == "loss")


def test_failing_takes_an_interval_beyond_the_margin(make_policy):
    after, holdout = ladder(200, -7, -3), alike()[1]
    # Holm: while both probes are undecided each interval is at level 1 − α/2
    low = auc_interval(after, holdout, level=0.975).low
    for delta, failed in ((low - 0.5 - 1e-6, True), (low - 0.5 + 0.02, False)):
        found = probe(decide(request(after, holdout), make_policy(delta=delta)))
        assert found.failed is failed


def test_a_model_that_collapsed_fails_by_its_utility(make_policy):
    collapsed = state(ladder(200, -11, -10), ladder(400, -11, -10), RETAIN - 9)
    given = request(*alike())
    verdict = decide(evidence({**given.plain, "after": collapsed}), make_policy())
    assert probe(verdict).passed  # a collapse is not a trace
    assert verdict.utility.outcome == verdict.outcome == "FAIL"


def test_twins_that_differ_in_the_base_decide_nothing(make_policy):
    for base in ((ladder(200, -7.3, -3.3), ladder(400)), (ladder(200, -8.7, -4.7), ladder(400))):
        for after in (alike()[0], known(200)):
            verdict = decide(request(after, alike()[1], base=base), make_policy())
            assert verdict.gates[2].passed is False
            assert verdict.outcome == "INCONCLUSIVE"
            assert "not shown to be comparable" in " ".join(verdict.reasons)
            assert any("references" in text for text in verdict.would_decide)


def test_extraction_fails_whatever_the_twins_are(make_policy):
    given = request(*alike(), base=(known(200), ladder(400)))
    out = np.full(200, -50.0)
    out[3:8] = -0.1
    after = state(*alike(), RETAIN, answers=out)
    verdict = decide(evidence({**given.plain, "after": after}), make_policy())
    assert verdict.gates[2].passed is False
    assert verdict.outcome == "FAIL"
    # the base gives it away as well
    base = state(*alike(), RETAIN, answers=out)
    verdict = decide(evidence({**given.plain, "after": after, "base": base}), make_policy())
    assert verdict.outcome == "PASS"
    # nothing to compare with
    states = {k: v for k, v in given.plain.items() if k != "base"}
    verdict = decide(evidence({**states, "after": after}), make_policy())
    assert verdict.extraction.outcome == verdict.outcome == "INCONCLUSIVE"
    assert verdict.extraction.reference_extracted is None


def test_a_reference_is_a_better_negative_control_than_the_base(make_policy):
    given = request(*alike(), base=(known(200), ladder(400)))
    states = {**given.plain, "reference:0": given.plain["after"]}
    assert decide(evidence(states), make_policy()).gates[2].passed is True
    # all of them must agree
    states["reference:1"] = given.plain["base"]
    assert decide(evidence(states), make_policy()).gates[2].passed is False


def test_what_cannot_be_told_apart_before_cannot_pass(make_policy):
    verdict = decide(request(*alike(), before=ladder(200, offset=0.1)), make_policy())
    assert verdict.gates[1].passed is False
    assert "not detectable even before" in verdict.reasons[0]
    assert verdict.outcome == "INCONCLUSIVE"


def people(n, groups, start=0):
    return [f"p{start + i * groups // n}" for i in range(n)]


@pytest.mark.parametrize(("groups", "decides"), [(9, False), (10, True)])
def test_ten_subjects_a_side_are_needed(make_policy, groups, decides):
    rng = np.random.default_rng(0)
    after, holdout = known(200), rng.permutation(ladder(400))
    labels = {"forget": people(200, groups), "holdout": people(400, 20, 100)}
    base = (rng.permutation(ladder(200)), holdout)
    verdict = decide(request(after, holdout, labels, base=base), make_policy())
    assert probe(verdict).failed is decides
    assert verdict.counts["subjects"] == groups
    if not decides:
        assert verdict.outcome == "INCONCLUSIVE"
        assert any("10 subjects" in text for text in verdict.would_decide)


def one_person(after, others=39, each=3, base=None):
    holdout = ladder(others * each)
    labels = {"forget": ["ann"] * len(after), "holdout": people(others * each, others)}
    middle = [-7.2, -5.0, -6.7][: len(after)] if base is None else base
    given = request(after, holdout, labels)
    return evidence({**given.plain, "base": state(middle, holdout, RETAIN)}, subjects=labels)


def test_one_person_is_ranked_among_others(make_policy):
    verdict = decide(one_person(known(3)), make_policy())
    assert (verdict.outcome, verdict.tier) == ("FAIL", "C")
    assert probe(verdict).value == pytest.approx(1 / 40)
    verdict = decide(one_person(np.array([-7.2, -5.1, -6.5])), make_policy())
    assert verdict.outcome == "INCONCLUSIVE"
    assert not any(r.passed for r in verdict.probes)
    assert "cannot PASS" in verdict.power


def test_twins_are_compared_by_as_many_records_as_the_person_has(make_policy):
    # the first two records of 39 others lie as far out as the person's do, the next 18 cancel that
    first = np.linspace(-3.0, 3.0, 39)
    holdout = np.concatenate([[-6 + x] * 2 + [-6 - x / 9] * 18 for x in first])
    labels = {"forget": ["ann"] * 2, "holdout": people(780, 39)}
    given = request(np.array([-3.5, -3.4]), holdout, labels)
    found = probe(decide(given, make_policy()))
    assert found.value == pytest.approx(8 / 40)  # 2.47 from the middle; 7 others lie farther
    # an other with fewer records than the person stays in, with what there is
    labels = {"forget": ["ann"] * 2, "holdout": people(39, 39)}
    found = probe(decide(request(np.array([-3.5, -3.4]), -6 + first, labels), make_policy()))
    assert found.value == pytest.approx(8 / 40)


def test_two_tests_by_rank_need_39_others(make_policy):
    for others, outcome in ((38, "INCONCLUSIVE"), (39, "FAIL")):
        verdict = decide(one_person(known(3), others), make_policy())
        assert verdict.outcome == outcome
    verdict = decide(one_person(known(3), 18), make_policy())
    assert "19 would" in probe(verdict).words
    assert any(t.startswith("39 twin subjects instead of 18") for t in verdict.would_decide)


def test_a_person_who_stands_out_in_the_base_is_not_comparable(make_policy):
    verdict = decide(one_person(known(3), base=known(3)), make_policy())
    assert verdict.gates[2].passed is False
    assert verdict.outcome == "INCONCLUSIVE"


def test_a_single_record_is_compared_with_one_record_of_each_person(make_policy):
    given = one_person(np.array([-0.01]))
    assert decide(given, make_policy()).outcome == "FAIL"
    # 39 people, whatever the number of their records
    assert probe(decide(given, make_policy())).value == pytest.approx(1 / 40)
    # without labels each record is a person's
    loose = evidence(given.plain)
    assert probe(decide(loose, make_policy())).value == pytest.approx(1 / 118)
    assert decide(loose, make_policy()).counts["subjects"] is None


def pairs(n, k=1, randomised=False):
    return Twins(np.arange(n * k).reshape(n, k), randomised)


def test_matched_twins_are_compared_pair_by_pair(make_policy):
    # records of very different difficulty, each a little above its twin
    after, holdout = ladder(100) + 0.001, ladder(100)
    given = request(after, holdout, base=(ladder(100) - 0.001 * (-1) ** np.arange(100), holdout))
    matched = Evidence(given.views, twins=pairs(100))
    found = probe(decide(matched, make_policy()))
    assert found.value == 1.0
    assert probe(decide(given, make_policy())).value == pytest.approx(0.505)
    expected = twin_theta(after, holdout, 0.9)
    assert (found.low, found.high) == pytest.approx(expected[1:3])


@pytest.mark.parametrize(
    ("twins", "message"),
    [
        (Twins(np.zeros((3, 1), dtype=np.int64)), "twins of shape"),
        (Twins(np.full((4, 1), 9)), "not among"),
        (Twins(np.zeros((4, 2), dtype=np.int64), True), "canary has one"),
    ],
)
def test_twins_that_cannot_be(twins, message):
    given = request(ladder(4), ladder(8))
    with pytest.raises(DataError, match=message):
        Evidence(given.views, twins=twins)


def canaries(after, left_out, make_policy, before=None, **changed):
    given = request(after, left_out, before=before)
    states = {k: v for k, v in given.plain.items() if k != "base"}
    twins = pairs(len(after), randomised=True)
    return decide(evidence(states, twins=twins), make_policy(**changed))


def coin(n, gap=0.05):
    """Pairs of which every second has the included canary above, and every second further out."""
    left_out, i = ladder(n), np.arange(n)
    return left_out + gap * np.where(np.minimum(i, n - 1 - i) % 2, 1, -1), left_out


def test_canaries_pass_without_a_negative_control(make_policy):
    verdict = canaries(*coin(200), make_policy)
    assert (verdict.tier, verdict.outcome) == ("B", "PASS")
    assert verdict.gates[2].passed is None
    assert probe(verdict).value == 0.5


@pytest.mark.parametrize(("n", "failed"), [(6, False), (7, True)])
def test_canaries_fail_by_the_exact_test(make_policy, n, failed):
    # all pairs one way: p = 2/2^n, twice by Holm
    verdict = canaries(ladder(n) + 1, ladder(n), make_policy)
    assert sign_flip_test(np.ones(n), "two-sided").p_value == 2 / 2**n
    assert probe(verdict).failed is failed
    assert (4 / 2**n <= 0.05) is failed
    assert verdict.outcome == ("FAIL" if failed else "INCONCLUSIVE")


def test_a_trace_within_the_margin_passes_though_the_test_sees_it(make_policy):
    after, left_out = coin(200)
    after = after + 0.03  # the lower ones are lower by less
    verdict = canaries(after, left_out, make_policy)
    assert "p of the sign flips = 0.000" in probe(verdict).words
    assert probe(verdict).passed
    assert not probe(verdict).failed


def test_canaries_pushed_in_both_directions_fail_by_deviation(make_policy):
    left_out = np.tile(ladder(2, -6.2, -5.8), 20)
    after = left_out + np.where(np.arange(40) // 2 % 2, 4.0, -4.0)
    verdict = canaries(after, left_out, make_policy)
    assert not probe(verdict).failed
    assert probe(verdict, "deviation").failed


def test_infinite_scores_of_canaries_count_by_their_order(make_policy):
    left_out = ladder(10)
    verdict = canaries(np.full(10, -math.inf), left_out, make_policy)
    assert probe(verdict).failed
    assert probe(verdict).value == 0.0


def test_a_claimed_epsilon_is_refuted_or_not(make_policy):
    right = np.ones(20)
    # ε = ln 3 allows three guesses in four
    assert guesses_refute(right, math.log(3)) == pytest.approx(0.75**20)
    assert guesses_refute(np.array([1, 1, -1.0, 0, 0]), 0.0) == pytest.approx(
        stats.binom.sf(2, 5, 0.5)
    )
    after, left_out = ladder(20) + 1, ladder(20)
    for epsilon, failed in ((math.log(3), True), (math.log(40), False)):
        verdict = canaries(after, left_out, make_policy, epsilon=epsilon)
        assert probe(verdict, "epsilon").failed is failed


def test_a_claim_without_canaries_is_not_tested(make_policy):
    verdict = decide(request(*alike()), make_policy(epsilon=1.0))
    assert verdict.outcome == "INCONCLUSIVE"
    assert any("canaries" in text for text in verdict.would_decide)


def test_without_a_holdout_there_are_no_twins(make_policy):
    given = request(*alike())
    states = {s: {k: v for k, v in x.items() if k != "holdout"} for s, x in given.plain.items()}
    verdict = decide(evidence(states), make_policy())
    assert verdict.outcome == "INCONCLUSIVE"
    assert any("--holdout" in text for text in verdict.would_decide)


@pytest.mark.parametrize(("n", "passed"), [(10, False), (11, True)])
def test_ties_everywhere_show_only_how_common_ties_are(make_policy, n, passed):
    # all n disjoint pairs tied: ties have probability 0.1^(1/n) or more, and θ ≥ half of that
    same = np.full(n, -6.0)
    found = probe(decide(request(same, same, base=(same, same)), make_policy()))
    assert found.value == 0.5
    assert found.low == pytest.approx(0.1 ** (1 / n) / 2)
    assert found.passed is passed


def test_a_probe_that_needs_the_base_says_so(make_policy):
    given = request(*alike())
    policy = make_policy(probes=["loss", "reference"])
    assert probe(decide(given, policy), "reference").value is not None
    states = {k: v for k, v in given.plain.items() if k != "base"}
    found = probe(decide(evidence(states), policy), "reference")
    assert "base" in found.words
    # a treated model is compared with the base as it is
    views = {View(): given.plain, View("int8"): {"after": given.plain["after"]}}
    policy = make_policy(probes=["reference"], deployments=["int8"])
    treated = [r for r in decide(Evidence(views), policy).probes if r.deployment == "int8"]
    assert all(r.value is not None for r in treated)


def test_nothing_to_judge():
    with pytest.raises(DataError, match="nothing to judge"):
        Evidence({View(): {"before": {}}})
    with pytest.raises(DataError, match="3 subjects"):
        request(ladder(4), ladder(4), {"forget": ["a"] * 3})
