"""One number a model, where it lies among references, and who stands for whom: by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.membership import ATTACKS
from unlearn_eval.statistics import moderated, prediction_limits, variance_prior
from unlearn_eval.verdict.decision import View, decide
from unlearn_eval.verdict.decision import _use_of_room as use_of_room
from unlearn_eval.verdict.evidence import MissingError
from unlearn_eval.verdict.policy import load_policy
from unlearn_eval.verdict.result import AS_IS, ProbeResult
from unlearn_eval.verdict.tiers.independence import independent
from unlearn_eval.verdict.tiers.model_statistics import deviation, gap, model_statistic, worst
from unlearn_eval.verdict.tiers.placing import Family, Place, placed
from unlearn_eval.verdict.tiers.position import Limits, ReferencePosition, limits_of, position_among
from unlearn_eval.verdict.tiers.references import _advice as advice
from unlearn_eval.verdict.tiers.references import _result as result_of
from unlearn_eval.verdict.tiers.references import _words as said_of
from unlearn_eval.verdict.tiers.references import decide_by_references
from unlearn_eval.verdict.tiers.unseen_groups import unseen_groups

from .cases import PEOPLE, Models, policy, seen, without
from .conftest import evidence, matrix, state

GAMES = math.sqrt(4 * math.pi)
RNG = np.random.default_rng(40)
VALUES = -6 + RNG.normal(size=(5, 9))  # the judged model and four references
OURS, UNSEEN = np.arange(3), np.arange(3, 9)


def others(j: int) -> np.ndarray:
    """The references but one."""
    return np.delete(VALUES[1:], j, axis=0)


def test_the_gap_is_of_means() -> None:
    found = gap(VALUES)(OURS, UNSEEN)
    assert found == pytest.approx(VALUES[:, :3].mean(1) - VALUES[:, 3:].mean(1))
    assert gap(VALUES)(OURS[:1], UNSEEN[2:]) == pytest.approx(VALUES[:, 0] - VALUES[:, 5:].mean(1))


def distances(columns: np.ndarray) -> list[float]:
    """D of the judged model, over all choices of references, and of each reference."""
    judged = [np.abs(VALUES[0] - np.median(others(j), 0))[columns].mean() for j in range(4)]
    own = [np.abs(VALUES[1 + j] - np.median(others(j), 0))[columns].mean() for j in range(4)]
    return [float(np.mean(judged)), *map(float, own)]


def test_the_deviation_is_from_the_other_references() -> None:
    expected = np.log(distances(OURS)) - np.log(distances(UNSEEN))
    assert deviation(VALUES)(OURS, UNSEEN) == pytest.approx(expected)


def test_the_worst_record_in_sds_of_the_other_references() -> None:
    centred = VALUES - VALUES[:, 3:].mean(1, keepdims=True)
    judged, own = [], []
    for j in range(4):
        rest = np.delete(centred[1:], j, axis=0)
        variances = rest.var(axis=0, ddof=1)
        sds = np.sqrt(moderated(variances, 2, variance_prior(variances, 2)))
        judged.append(np.arcsinh(((centred[0] - np.median(rest, 0)) / sds)[:3].max()))
        own.append(np.arcsinh(((centred[1 + j] - np.median(rest, 0)) / sds)[:3].max()))
    for given in (OURS, UNSEEN[:3]):
        found = worst(VALUES, UNSEEN)(OURS, given)
        assert found == pytest.approx([np.mean(judged), *own])


def models(holdout: bool = True) -> dict[str, Any]:
    """The same values as scores of states."""
    names = ["after", *(f"reference:{j}" for j in range(4))]
    return {n: state(v[:3], v[3:] if holdout else None) for n, v in zip(names, VALUES, strict=True)}


REFERENCES = [f"reference:{j}" for j in range(4)]


def test_floors_in_the_units_of_each_probe() -> None:
    spread = np.mean([v[3:].std() for v in VALUES[1:]])
    nats = 0.02 * GAMES * spread
    ready = model_statistic("loss", models(), "after", REFERENCES, floor=0.02)
    assert (ready.records, ready.unseen) == (3, 6)
    assert (ready.forget.tolist(), ready.holdout.tolist()) == ([0, 1, 2], [3, 4, 5, 6, 7, 8])
    assert ready.floor(OURS, np.zeros(4)) == pytest.approx(nats)
    ready = model_statistic("deviation", models(), "after", REFERENCES, floor=0.02)
    usual = np.mean(distances(OURS)[1:])
    assert ready.floor(OURS, np.zeros(4)) == pytest.approx(math.log(1 + nats / usual))
    ready = model_statistic("worst_record", models(), "after", REFERENCES, floor=0.02)
    centred = VALUES[1:] - VALUES[1:, 3:].mean(1, keepdims=True)
    sds = []
    for j in range(4):
        variances = np.delete(centred, j, axis=0).var(axis=0, ddof=1)
        sds.append(np.sqrt(moderated(variances, 2, variance_prior(variances, 2)))[:3])
    for level in (0.0, 1.5):
        expected = math.asinh(math.sinh(level) + 2 * nats / np.median(sds)) - level
        assert ready.floor(OURS, np.full(4, level)) == pytest.approx(expected)
    # of references that agree, whatever differs is beyond any floor
    same = {**models(), **dict.fromkeys(REFERENCES, models()["reference:0"])}
    for probe in ("deviation", "worst_record"):
        ready = model_statistic(probe, same, "after", REFERENCES, floor=0.02)
        assert ready.floor(OURS, np.zeros(4)) == math.inf
    # a single unseen record shows no spread
    one = {n: state(v[:3], v[3:4]) for n, v in zip(models(), VALUES, strict=True)}
    assert model_statistic("loss", one, "after", REFERENCES, floor=0.02).floor(OURS, VALUES) == 0.0
    assert model_statistic("loss", models(), "after", REFERENCES).floor(OURS, VALUES) == 0.0


def test_levels_are_taken_off_for_deviations_alone() -> None:
    off = VALUES - VALUES[:, 3:].mean(1, keepdims=True)
    ready = model_statistic("deviation", models(), "after", REFERENCES, level=False)
    assert ready.statistic(OURS, UNSEEN) == pytest.approx(deviation(off)(OURS, UNSEEN))
    ready = model_statistic("deviation", models(), "after", REFERENCES)
    assert ready.statistic(OURS, UNSEEN) == pytest.approx(deviation(VALUES)(OURS, UNSEEN))
    ready = model_statistic("loss", models(), "after", REFERENCES, level=False)
    assert ready.statistic(OURS, UNSEEN) == pytest.approx(gap(VALUES)(OURS, UNSEEN))


def test_attacks_are_asked_with_the_base_and_each_of_any_state() -> None:
    base = state(np.array([-7.0, -5.0, -6.5]), np.linspace(-8, -4, 6))
    scores = {**models(), "base": base}
    ready = model_statistic("reference", scores, "reference:1", ["after", "reference:0"])
    attack = ATTACKS["reference"].score
    expected = [
        attack(scores[n]["forget"], base["forget"]).mean()
        - attack(scores[n]["holdout"], base["holdout"]).mean()
        for n in ("reference:1", "after", "reference:0")
    ]
    assert ready.statistic(OURS, UNSEEN) == pytest.approx(expected)
    with pytest.raises(MissingError, match="compares with the base, which was not scored"):
        model_statistic("reference", models(), "after", REFERENCES)
    with pytest.raises(MissingError, match="the state 'after' was not scored on the split 'holdou"):
        model_statistic("loss", models(holdout=False), "after", REFERENCES)
    for probe in ("deviation", "worst_record"):
        with pytest.raises(MissingError, match="^3 references are needed"):
            model_statistic(probe, models(), "after", REFERENCES[:2])
        model_statistic(probe, models(), "after", REFERENCES[:3])
    # a reference that rules a record out has no median, and the judged model may
    lost = VALUES[2].copy()
    lost[4] = -math.inf
    for name, refused in (("reference:0", True), ("reference:1", True), ("after", False)):
        given = {**models(), name: state(lost[:3], lost[3:])}
        for probe in ("deviation", "worst_record"):
            if refused:
                with pytest.raises(DataError, match="a reference gives a record no finite score"):
                    model_statistic(probe, given, "after", REFERENCES)
            else:
                model_statistic(probe, given, "after", REFERENCES)
        model_statistic("loss", given, "after", REFERENCES)


def test_a_place_with_what_unseen_people_say() -> None:
    given = seen(Models(41).request(), subjects=PEOPLE)
    groups = unseen_groups(PEOPLE["forget"], PEOPLE["holdout"])
    assert [group.records.tolist() for group in groups] == [[4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3]
                                                            for i in range(6)]  # fmt: skip
    found = placed(given, View(), "loss", 0.01, groups)
    assert isinstance(found, Place)
    names = ["after", *given.references]
    forget = np.array([given.plain[n]["forget"].log_prob for n in names])
    holdout = np.array([given.plain[n]["holdout"].log_prob for n in names])
    values = forget.mean(1) - holdout.mean(1)
    unseen = np.array([holdout[1:, g.records].mean(1) - holdout[1:, g.rest].mean(1)
                       for g in groups])  # fmt: skip
    prior = variance_prior(unseen.var(axis=1, ddof=1), 4)
    own = values[1:].var(ddof=1)
    where = found.position
    assert where.freedom == pytest.approx(4 + prior.freedom)
    assert where.sd == pytest.approx(
        math.sqrt((prior.freedom * prior.variance + 4 * own) / (4 + prior.freedom))
    )
    assert where.floor == pytest.approx(0.01 * GAMES * holdout[1:].std(axis=1).mean())
    assert where.distance == pytest.approx(abs(values[0] - values[1:].mean()) / where.sd)
    assert found.agreeing == pytest.approx(stats.f.cdf(own / prior.variance, 4, prior.freedom))
    rows = np.vstack([values[1:], unseen])
    assert found.residuals == pytest.approx((rows - rows.mean(1, keepdims=True)).ravel())
    alone = placed(given, View(), "loss", 0.0, [])
    assert isinstance(alone, Place)
    assert (alone.agreeing, alone.position.freedom) == (None, 4)
    assert alone.position.sd == pytest.approx(math.sqrt(own))
    for probe in ("deviation", "worst_record"):  # the floor is of the forgotten records
        ready = model_statistic(probe, given.plain, "after", given.references, floor=0.01)
        others = ready.statistic(ready.forget, ready.holdout)[1:]
        there = placed(given, View(), probe, 0.01, [])
        assert isinstance(there, Place)
        assert there.position.floor == pytest.approx(ready.floor(ready.forget, others))
        every = np.arange(ready.records + ready.unseen)
        assert there.position.floor != pytest.approx(ready.floor(every, others))
    before = placed(given, View(), "loss", 0.0, [], "before")
    assert isinstance(before, Place)
    assert before.position.value > values.max() + 3


def test_deviations_are_only_bounded_above() -> None:
    names = ["after", *REFERENCES]
    models = {n: state(v[:3], v[3:]) for n, v in zip(names, VALUES, strict=True)}
    ends = {each.probe: (each.low, each.high) for each in decide(evidence(models), policy()).probes}
    assert {"deviation", "worst_record", "loss"} <= set(ends)
    for probe, (low, high) in ends.items():
        assert low is not None
        assert high is not None
        assert math.isfinite(high)
        assert (low == -math.inf) == (probe in ("deviation", "worst_record"))


def test_without_a_place_there_is_a_reason() -> None:
    states = Models(42).request()
    missing = seen(without(states, split="holdout"))
    words = "the state 'after' was not scored on the split 'holdout'"
    assert placed(missing, View(), "loss", 0.0, []) == words
    lost = states["after"]["forget"].log_prob.copy()
    lost[0] = -math.inf
    broken = {**states["reference:1"], "forget": matrix(lost, "f")}
    given = seen({**states, "reference:1": broken})
    assert placed(given, View(), "loss", 0.0, []) == "a score is infinite"
    assert placed(given, View(), "deviation", 0.0, []) == "some record has no finite score"


def test_a_position_with_a_prior() -> None:
    references = np.array([1.0, 2.0, 3.0, 6.0])
    prior = variance_prior([4.0] * 5, 3)
    found = position_among(6.0, references, prior, 0.2)
    sd = math.sqrt((15 * 4 + 3 * references.var(ddof=1)) / 18)
    p = 2 * stats.t.sf(3 / sd / math.sqrt(1.25), 18)
    assert found == (6.0, 3.0, pytest.approx(sd), 4, pytest.approx(3 / sd), pytest.approx(p), 18,
                     0.2)  # fmt: skip
    # references that agree vary as others do, where others tell
    tied = position_among(6.0, np.full(4, 3.0), prior)
    assert (tied.sd, tied.floor) == (pytest.approx(math.sqrt(60 / 18)), 0.0)
    assert position_among(6.0, np.full(4, 3.0), variance_prior([0.0], 3)).sd == 0.0
    apart = position_among(6.0, np.full(4, 3.0), None, 0.3)
    assert apart[:4] == (6.0, 3.0, 0.0, 4)
    assert math.isnan(apart.distance)
    assert apart[5:] == (1.0, 3, 0.3)
    nothing = position_among(math.nan, references, None, 0.3)
    assert np.isnan(nothing[:3]).all()
    assert np.isnan([nothing.distance, nothing.p_value]).all()
    assert nothing[6:] == (3, 0.3)


@pytest.mark.parametrize("floor", [0.0, 0.5, 5.0])
def test_limits_by_hand(floor: float) -> None:
    position = ReferencePosition(0.0, 0.0, 0.5, 5, 0.0, 1.0, 9.0, floor)
    found = limits_of(position, 4.0, 0.05, 3.0)
    inside = prediction_limits(5, 4.0, 0.05, 9.0).equivalent * 0.5
    least = floor - stats.t.isf(0.05, 9) * math.sqrt(1.2) * 0.5
    assert found.equivalent == pytest.approx(max(inside, least))
    assert found.different == pytest.approx(max(inside, floor, 3 * math.sqrt(1.2) * 0.5))
    assert limits_of(position._replace(sd=0.0), 4.0, 0.05, 3.0).different == math.inf


def test_two_references_are_copies_below_a_tenth_of_the_usual_distance() -> None:
    def apart(by: float) -> tuple[bool | None, str]:
        states = Models(43).request()
        first = states["reference:1"]
        other = {k: matrix(first[k].log_prob + by, k[0]) for k in ("forget", "holdout")}
        states["reference:4"] = {**other, "retain": states["reference:4"]["retain"]}
        return independent(seen(states), [])

    states = Models(43).request()
    scores = [np.concatenate([states[f"reference:{i}"][s].log_prob for s in ("forget", "holdout")])
              for i in range(4)]  # fmt: skip
    scores.append(scores[1])
    distances = [math.sqrt(np.mean((scores[i] - scores[j]) ** 2))
                 for i in range(5) for j in range(i)]  # fmt: skip
    usual = float(np.median(distances))
    words = (
        "references are not independent: reference:1 and reference:4 give nearly the same scores; "
        "train them from different seeds"
    )
    assert apart(0.09 * usual) == (False, words)
    none = (None, "not needed: references are the comparison")
    assert apart(0.11 * usual) == none
    assert independent(seen(without(states, split="holdout")), []) == none


@pytest.mark.parametrize(
    ("agreeing", "passed"),
    [([0.006, None], True), ([0.004, None], False), ([0.9, 0.003], True), ([0.9, 0.002], False)],
)
def test_references_that_agree_on_the_forgotten_records_alone(
    agreeing: list[float | None], passed: bool
) -> None:
    """As often as once in 200 by chance, over all probes in the models as they are."""
    position = ReferencePosition(0.0, 0.0, 1.0, 5, 0.0, 1.0, 4.0)
    families = [
        Family(name, [View(), View("int8")], [Place(position, np.zeros(5), p),
                                              Place(position, np.zeros(5), 1e-9)])
        for name, p in zip(("loss", "min_k"), agreeing, strict=True)
    ]  # fmt: skip
    found = independent(seen(Models(44).request()), [*families, Family("x", [View()], ["none"])])
    which = "loss" if agreeing[1] is None else "min_k"
    assert found == (
        (True, "references vary on the forgotten records as on unseen people's")
        if passed
        else (
            False,
            f"references are not independent: by {which} they agree on the forgotten records far "
            "better than on unseen people's; train them from different seeds",
        )
    )


def groups(forget: Any, holdout: Any) -> list[tuple[list[int], list[int]]]:
    return [(g.records.tolist(), g.rest.tolist()) for g in unseen_groups(forget, holdout)]


def test_who_stands_for_the_forgotten_by_position() -> None:
    # two people of three and two records: pairs of people, three records of each at most
    labels = list("aaaabbbcccddeeeffgghhhh")
    found = groups(["x", "x", "x", "y", "y"], labels)
    expected = [[0, 1, 2, 4, 5, 6], [7, 8, 9, 10, 11], [12, 13, 14, 15, 16], [17, 18, 19, 20, 21]]
    assert [records for records, _ in found] == expected
    for (records, rest), people in zip(found, ("ab", "cd", "ef", "gh"), strict=True):
        assert rest == [i for i, label in enumerate(labels) if label not in people]
        assert set(records) <= {i for i, label in enumerate(labels) if label in people}
    # half as many records as a forgotten person has are enough, and fewer are not
    assert len(groups(["x"] * 4, list("aabbccddee"))) == 5
    assert groups(["x"] * 5, list("aabbccddee")) == []
    # people that are left over, and records of nobody, only fill up the rest
    found = groups(["x", "y"], [*"abcdefghi", None])
    assert [records for records, _ in found] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert found[0][1] == [2, 3, 4, 5, 6, 7, 8, 9]
    # a single record: one of each person, and each of nobody
    found = groups(["x"], ["a", "a", "b", None, None])
    assert found == [([0], [2, 3, 4]), ([2], [0, 1, 3, 4]), ([3], [0, 1, 2, 4]),
                     ([4], [0, 1, 2, 3])]  # fmt: skip
    # nobody is left to compare four people with, if they are all there are
    assert groups(["a", "b", "c", "d"], list("efgh") * 2) == []
    assert groups(["x", None], list("abcdefgh")) == []


def test_how_many_references_would_decide() -> None:
    given, rules = seen(Models(5).request(0.2, k=4)), policy(margin=3.0, min_references=4)
    found = decide_by_references(given, rules)
    loss = found.probes[0]
    assert loss.value is not None
    assert loss.reference_mean is not None
    assert loss.reference_sd is not None
    away = abs(loss.value - loss.reference_mean) / loss.reference_sd

    def leads_to(k: int) -> str:
        inside = prediction_limits(k, 3.0, 0.05).equivalent
        beyond = max(inside, stats.t.isf(0.05 / 4 / 2, k - 1) * math.sqrt(1 + 1 / k))
        return "PASS" if away <= inside else "FAIL" if away > beyond else ""

    k = next(k for k in range(5, 101) if leads_to(k))
    assert found.would_decide[0] == (
        f"loss: {k} references instead of 4, if the model stays {away:.2f} of their SDs away "
        f"({leads_to(k)})"
    )


def test_equal_references_say_nothing_of_what_differs_from_them() -> None:
    same, limits = ReferencePosition(0.2, 0.2, 0.0, 5, 0.0, 1.0, 4.0), Limits(0.0, 0.0)
    assert "the model as they do" in said_of("loss", same, limits, passed=True)
    assert "the model elsewhere" in said_of("loss", same, limits, passed=False)
    found = result_of("loss", View(), same, limits, rejected=False)
    assert (found.passed, "as they do" in found.words) == (True, True)


def test_the_form_that_came_nearest_to_its_limit_speaks_for_a_probe() -> None:
    def used(value: float, low: float = -1.0, high: float = 3.0, mean: float | None = 1.0) -> float:
        return use_of_room(ProbeResult("p", "", value, low, high, True, False, "", AS_IS, "", mean))

    assert (used(2.0), used(0.0), used(1.0), used(3.0)) == (0.5, 0.5, 0.0, 1.0)
    assert used(0.6, 0.4, 0.6, None) == 1.0  # about one half
    assert used(1.0, 1.0, 1.0) == 0.0  # no room at all


def test_the_positive_control_takes_twice_the_margin_or_twice_the_floor() -> None:
    for floor, needed in ((0.0, 8.0), (0.2, None)):
        given = seen(Models(45).request())
        rules = policy(floor=floor, probes=["loss"])
        control = decide(given, rules).gates[1]
        places = [placed(given, View(), probe, floor, [], "before")
                  for probe in rules.tested_by_references]  # fmt: skip
        positions = [place.position for place in places if isinstance(place, Place)]
        where = max(positions, key=lambda p: p.distance / max(4.0, p.floor / p.sd))
        twice = 2 * max(4.0, where.floor / where.sd)
        assert needed is None or twice == needed
        assert control.words.startswith(f"before: {where.distance:.1f} of the references' SDs away")
        assert f"; {twice:.3g} are needed" in control.words
        assert control.passed is bool(where.distance >= twice)


@pytest.mark.parametrize("name", ["quick", "standard", "strict"])
def test_the_least_number_of_references_that_would_decide_is_named(name: str) -> None:
    """Also where fewer would FAIL a model than PASS it, and where a look has less error."""
    rules, seen_sides = load_policy(name)[1], set()
    for k, away, prior in ((5, 1.85, 0), (5, 2.7, 0), (5, 3.1, 0), (5, 3.4, 0), (8, 3.6, 0),
                           (8, 2.45, 30), (12, 3.0, 0), (97, 2.4, 0)):  # fmt: skip
        freedom, error = k - 1 + prior, rules.level(k) / 5
        place = ReferencePosition(-2 * away, 0.0, 2.0, k, away, 0.5, freedom)

        def leads_to(j: int, away: float = away, error: float = error, prior: int = prior) -> str:
            inside = prediction_limits(j, rules.margin, rules.level(j), j - 1 + prior).equivalent
            beyond = stats.t.isf(error / 2, j - 1 + prior) * math.sqrt(1 + 1 / j)
            return "PASS" if away <= inside else "FAIL" if away > max(inside, beyond) else ""

        said = advice("loss", place, rules, error)
        first = next((j for j in range(k + 1, 101) if leads_to(j)), None)
        if first is None:
            assert said == "loss: more than 100 references"
            continue
        seen_sides.add(leads_to(first))
        assert said == (
            f"loss: {first} references instead of {k}, if the model stays {away:.2f} of their SDs "
            f"away ({leads_to(first)})"
        )
    assert seen_sides == {"PASS", "FAIL"}


def test_a_hundred_references_are_the_most_that_are_suggested() -> None:
    rules = policy()
    inside = [prediction_limits(k, 4.0, 0.05).equivalent for k in (99, 100)]
    for away, words in (
        (np.mean(inside), "100 references instead of 5, if the model stays"),
        (inside[1] + 1e-6, "more than 100 references"),
    ):
        place = ReferencePosition(float(away), 0.0, 1.0, 5, float(away), 0.5, 4)
        assert advice("loss", place, rules, 1e-9).startswith(f"loss: {words}")
    # the limit itself passes
    away = prediction_limits(8, 4.0, 0.05).equivalent
    place = ReferencePosition(away, 0.0, 1.0, 5, away, 0.5, 4)
    assert advice("loss", place, rules, 1e-9).startswith("loss: 8 references instead of 5")
    apart = ReferencePosition(1.0, 0.0, 0.0, 5, math.nan, 1.0, 4)
    words = "loss: references from different seeds, so that they vary"
    assert advice("loss", apart, rules, 0.05) == words


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_what_differs_by_rounding_is_the_same(size: float) -> None:
    for by, tied in ((1e-13, True), (1e-11, False)):
        references = size * np.array([1.0, 1.0 + by, 1.0])
        assert (position_among(size, references).sd == 0.0) is tied
        found = position_among(size * (1 + by), np.full(3, size))
        assert (found.distance == 0.0) is tied
        assert math.isnan(found.distance) is not tied
