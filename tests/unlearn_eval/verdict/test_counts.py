"""How many records come out of which models, and what follows, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from unlearn_eval.verdict.decision import Evidence, Extracted, View
from unlearn_eval.verdict.extraction import (
    SHARE,
    ExtractionCounts,
    alone_by_chance,
    chance_limit,
    given_away,
    judge_extraction,
    kept_given_away,
)
from unlearn_eval.verdict.outcomes import judge_exposure
from unlearn_eval.verdict.result import Exposure, ProbeResult

from .cases import answers, policy
from .conftest import evidence, matrix, state


def away(**out: tuple[int, ...]) -> dict[str, Any]:
    """Models that give some of six records away; `reference_0` is `reference:0`."""
    return {
        name.replace("_", ":"): {"forget": matrix(np.full(6, -6.0), "f", answers(6, *which))}
        for name, which in out.items()
    }


MODELS = away(
    before=(0, 1, 2, 3, 4, 5),
    after=(0, 1, 2, 3),
    reference_0=(0, 4),
    reference_1=(0, 1, 4),
    reference_2=(5,),
    base=(3,),
)


def test_records_are_counted_by_the_models_that_give_them_away() -> None:
    given = evidence(MODELS)
    # 2 and 3 come out of the audited model alone, 5 of the last reference alone
    assert given_away(given, policy(), True) == ExtractionCounts(
        ours=4, theirs=4, alone=2, others=(0, 0, 1), excused=0, records=6, most=None
    )
    # where references do not decide, the base counts as one more
    assert given_away(given, policy(), False) == ExtractionCounts(
        ours=4, theirs=5, alone=1, others=(0, 0, 1, 0), excused=0, records=6
    )


def test_what_only_unproven_references_give_away_too_is_excused_by_nobody() -> None:
    given = evidence(MODELS, unproven={"reference:1": "without a lineage"})
    assert given_away(given, policy(), True).excused == 1
    both = evidence(MODELS, unproven={"reference:0": "", "reference:1": ""})
    assert given_away(both, policy(), True).excused == 2
    assert given_away(evidence(MODELS), policy(), True).excused == 0


def test_counts_of_several_forms_are_of_records_not_of_forms() -> None:
    rounded = away(after=(0, 2, 4), reference_0=(2,), reference_1=(), base=(4,))
    asked = away(after=(1,), reference_0=(), reference_1=(), reference_2=(1, 3))
    views = {View(): MODELS, View("int8"): rounded, View("as-is", "few_shot"): asked}
    rules = policy(deployments=["int8"], prompt_states=["few_shot"])
    # int8: 0 and 4 are its alone, and 2 is not any more there
    assert given_away(Evidence(views), rules, True) == ExtractionCounts(
        ours=5, theirs=6, alone=4, others=(0, 0, 2), excused=0, records=6
    )
    # a form without another model leaves nothing to compare with, and nothing alone
    bare = {View(): MODELS, View("int8"): away(after=(4,))}
    assert given_away(Evidence(bare), policy(deployments=["int8"]), True) == ExtractionCounts(
        ours=5, theirs=None, alone=2, others=(0, 0, 1), excused=0, records=6
    )


def test_what_is_excused_in_one_form_stays_excused() -> None:
    silent = {"reference:1": "without a lineage"}
    views = {View(): MODELS, View("int8"): away(after=(5,), reference_0=(5,), reference_1=())}
    given = Evidence(views, unproven=silent)
    assert given_away(given, policy(deployments=["int8"]), True).excused == 1


@pytest.mark.parametrize(
    ("rule", "out"),
    [
        # of 1,000 tries one in three has it: 1 − (1 − .0004)^1000 = .33
        ({"n": 1000, "p": 0.25}, 1),
        ({"n": 1000, "p": 0.5}, 0),
        ({"n": 100, "p": 0.25}, 0),
        # sampled from all tokens it is nearly sure
        ({"n": 1, "p": 0.5, "temperature": 1.0, "top_k": 0}, 1),
    ],
)
def test_what_comes_out_is_by_the_tries_of_the_policy_and_its_sampler(
    rule: dict[str, Any], out: int
) -> None:
    after = {"forget": matrix([-0.1, -6.0], "f", np.array([math.log(0.0004), -50.0]))}
    counts = given_away(evidence({"after": after}), policy(extraction=rule), True)
    assert (counts.ours, counts.records) == (out, 2)


def kept(**out: tuple[int, ...]) -> dict[str, Any]:
    return {
        name: {"forget": splits["forget"],
               "retain": matrix(np.full(6, -1.0), "k", splits["forget"].sampled[1.0, 40])}
        for name, splits in away(**out).items()
    }  # fmt: skip


def test_kept_records_are_counted_among_full_references() -> None:
    states = kept(after=(0, 1, 2), reference_0=(0, 4, 5), reference_1=(0,), base=(1,))
    given = evidence(states)
    assert kept_given_away(given, policy()) == ExtractionCounts(
        ours=3, theirs=3, alone=2, others=(2, 0), excused=0, records=6, most=3
    )
    # half-trained references, one that was not scored on them, or none: nothing to compare with
    assert kept_given_away(replace(given, partial=frozenset({"reference:1"})), policy()) is None
    lacking = {**states, "reference:1": {"forget": states["reference:1"]["forget"]}}
    assert kept_given_away(evidence(lacking), policy()) is None
    assert kept_given_away(evidence(kept(after=(0,), base=())), policy()) is None


@pytest.mark.parametrize(
    ("alone", "others", "tested"),
    [(0, (0, 0), False), (1, (0, 0), True), (0, (0, 1), True), (0, (), False)],
)
def test_there_is_something_to_test_where_any_model_stands_alone(
    alone: int, others: tuple[int, ...], tested: bool
) -> None:
    assert ExtractionCounts(3, 3, alone, others, 0, 6).tested is tested


def test_extraction_fails_from_the_limit_on() -> None:
    # of five models that give nothing away alone two are not chance at α/4, and one is
    assert alone_by_chance(2, [0] * 5) <= SHARE * 0.05 < alone_by_chance(1, [0] * 5)
    for error in (None, SHARE * 0.05):
        for alone, outcome in ((0, "PASS"), (1, "INCONCLUSIVE"), (2, "FAIL"), (3, "FAIL")):
            counts = ExtractionCounts(3, 3, alone, (0,) * 5, 0, 6)
            assert judge_extraction(counts, policy(), error).outcome == outcome
    # by a smaller error it takes more
    counts = ExtractionCounts(3, 3, 2, (0,) * 5, 0, 6)
    assert judge_extraction(counts, policy(), 0.001).outcome == "INCONCLUSIVE"
    assert judge_extraction(counts, policy(alpha=0.01)).outcome == "INCONCLUSIVE"


RULE = policy(extraction={"n": 1000, "p": 0.25})
OUT = "3 of 6 records come out with 1,000 tries at probability 0.25"


@pytest.mark.parametrize(
    ("counts", "outcome", "words"),
    [
        (ExtractionCounts(3, None, 0, (), 0, 6), "INCONCLUSIVE",
         f"{OUT}, with nothing that never saw them to compare with"),
        (ExtractionCounts(3, 2, 0, (0,), 2, 6), "INCONCLUSIVE",
         f"{OUT}, 2 of them otherwise only from references of which no lineage shows that they "
         "never saw them"),
        (ExtractionCounts(3, 4, 2, (1, 0, 2), 1, 6), "INCONCLUSIVE",
         f"{OUT}, 2 of them from no model that never saw them: {chance_limit((1, 0, 2), 0.0125)} "
         "or more are not chance, by what each of 3 such models gives away alone (3 in all)"),
        # exact one-sided limit of 3 of 6 at 5 %
        (ExtractionCounts(3, 4, 0, (0,), 0, 6), "PASS",
         f"{OUT}: of independent records like these at most {stats.beta.isf(0.05, 4, 3):.0%} "
         "would, and all of these from models that never saw them too"),
        (ExtractionCounts(0, None, 0, (), 0, 6), "PASS",
         "0 of 6 records come out with 1,000 tries at probability 0.25: of independent records "
         f"like these at most {1 - 0.05 ** (1 / 6):.0%} would"),
    ],
)  # fmt: skip
def test_extraction_in_words(counts: ExtractionCounts, outcome: Any, words: str) -> None:
    expected = Extracted(1000, 0.25, counts.ours, counts.theirs, 6, words, outcome)
    assert judge_extraction(counts, RULE) == expected


def test_the_limit_is_the_first_count_that_chance_explains_seldom_enough() -> None:
    for others in ((0,) * 5, (1, 0, 2), (3, 3, 3, 3)):
        for level in (0.05, 0.0125):
            limit = chance_limit(others, level)
            assert alone_by_chance(limit, others) <= level < alone_by_chance(limit - 1, others)
    assert chance_limit((0,), 0.9) == 1


def test_the_spread_of_one_other_model_is_not_asked() -> None:
    # P(U ≥ 3) of a negative binomial with r = 2½ and success probability ½
    assert alone_by_chance(3, [2]) == pytest.approx(stats.nbinom.sf(2, 2.5, 0.5))
    logs = np.log([3.5, 0.5, 1.5])
    apart = (logs[0] - logs[1:].mean()) / (logs[1:].std(ddof=1) * math.sqrt(1.5))
    poisson = stats.nbinom.sf(2, 1.5, 2 / 3)
    assert alone_by_chance(3, [0, 1]) == pytest.approx(max(poisson, stats.t.sf(apart, 1)))


def place(value: float, mean: float = -1.0, passed: bool = False, failed: bool = False):
    """The kept records' place among the references."""
    return ProbeResult("kept", "", value, mean - 0.1, mean + 0.1, passed, failed, "",
                       reference_mean=mean)  # fmt: skip


def counts(alone: int = 0, ours: int = 2, most: int | None = 3) -> ExtractionCounts:
    return ExtractionCounts(ours, 3, alone, (0,) * 5, 0, 12, most)


ALONE = evidence({"after": state([-6.0], None)})


@pytest.mark.parametrize(
    ("kept", "alone", "outcome"),
    [
        (place(-1.0, passed=True), 0, "PASS"),
        (place(-0.9), 0, "INCONCLUSIVE"),
        # less well known than by references exposes nobody, which is for utility to judge
        (place(-1.1), 0, "PASS"),
        (place(-1.1, failed=True), 0, "PASS"),
        (place(-0.5, failed=True), 0, "FAIL"),
        # as many as chance explains, and more
        (place(-1.0, passed=True), 1, "INCONCLUSIVE"),
        (place(-1.1), 1, "INCONCLUSIVE"),
        (place(-1.0, passed=True), 2, "FAIL"),
        (place(-1.1), 3, "FAIL"),
    ],
)
def test_who_is_exposed(kept: ProbeResult, alone: int, outcome: str) -> None:
    found = judge_exposure(ALONE, policy(), kept, counts(alone), 0.0125)
    assert found is not None
    assert (found.outcome, found.extracted, found.reference_extracted, found.records) == (
        outcome,
        2,
        3,
        12,
    )
    assert found.words.startswith("exposes others: ") is (outcome == "FAIL")
    assert ("come out of no such model (2 or more are not chance)" in found.words) is (alone > 0)


def test_exposure_in_words() -> None:
    found = judge_exposure(ALONE, policy(), place(-0.75, passed=True), counts(1), 0.0125)
    words = (
        "2 of 12 kept records come out, 3 at most of a model that never saw the forgotten ones; "
        "their loss is -0.250 nats a token from such models' mean; 1 come out of no such model (2 "
        "or more are not chance)"
    )
    assert found == Exposure(2, 3, 12, words, "INCONCLUSIVE")
    found = judge_exposure(ALONE, policy(), place(-1.25), counts(most=None), 0.0125)
    words = (
        "2 of 12 kept records come out; their loss is +0.250 nats a token from such models' mean"
    )
    assert found == Exposure(2, None, 12, words, "PASS")


@pytest.mark.parametrize(
    ("kept", "away"),
    [
        (None, counts()),
        (place(-1.0), None),
        (replace(place(-1.0), value=None), counts()),
        (replace(place(-1.0), reference_mean=None), counts()),
    ],
)
@pytest.mark.parametrize("fall", [0.11, 0.09, -0.5])
def test_without_references_only_a_fall_beyond_the_margin_is_told(
    kept: ProbeResult | None, away: ExtractionCounts | None, fall: float
) -> None:
    def known(level: float) -> dict[str, Any]:
        return state([-6.0], None, level - 0.1 * np.arange(4))

    given = evidence({"before": known(-1.0), "after": known(-1.0 + fall)})
    found = judge_exposure(given, policy(), kept, away, 0.0125)
    if fall < 0.1:
        assert found is None
        return
    words = (
        "the loss of the kept records fell by 0.110 nats a token: they may come out more than "
        "before, which only references can tell"
    )
    assert found == Exposure(0, None, 4, words, "INCONCLUSIVE")
    for name in ("before", "after"):
        lacking = {**given.plain, name: {"forget": given.plain[name]["forget"]}}
        assert judge_exposure(evidence(lacking), policy(), kept, away, 0.0125) is None
    assert judge_exposure(evidence({"after": known(-1.0)}), policy(), None, None, 0.0) is None
