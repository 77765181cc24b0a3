"""Conditions that decide who is compared with whom, and at what level, each on both sides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.verdict.decision import View, decide, leave_one_out

from .conftest import HOLDOUT, RETAIN, SHIFTS, evidence, probe, reference, state


@pytest.mark.parametrize(("alpha", "most"), [(0.05, "39%"), (0.01, "54%")])
def test_the_bound_of_extraction_is_one_sided_at_alpha(five, make_policy, alpha, most):
    # none of six comes out: the largest rate that this does not rule out is 1 − α^(1/6)
    found = decide(five(), make_policy(alpha=alpha)).extraction
    assert found.extracted == 0
    assert found.words.endswith(f"at most {most} would")


def test_each_reference_left_out_is_the_one_that_is_judged(five, make_policy):
    found = leave_one_out(five(), make_policy(min_references=5))
    assert [probe(verdict).value for verdict in found.verdicts] == pytest.approx(list(SHIFTS))
    # neither the audited model nor the one left out is among those compared with
    assert [probe(v).reference_sd for v in found.verdicts] == pytest.approx(
        [np.std(np.delete(SHIFTS, i), ddof=1) for i in range(5)]
    )


@pytest.mark.parametrize("count", [2, 3])
def test_three_references_are_enough_to_leave_one_out(five, make_policy, count):
    dropped = [f"reference:{i}" for i in range(count, 5)]
    states = {name: splits for name, splits in five().plain.items() if name not in dropped}
    given = evidence(states)
    if count < 3:
        with pytest.raises(DataError, match="2 references: 3 are needed"):
            leave_one_out(given, make_policy())
        return
    found = leave_one_out(given, make_policy())
    assert [verdict.tier for verdict in found.verdicts] == ["A"] * 3
    assert {verdict.counts["references"] for verdict in found.verdicts} == {2}


def test_fewer_references_than_the_policy_asks_for_still_judge_one_another(five, make_policy):
    # the policy's number is lowered to what is left, and never raised
    for asked in (2, 3, 5, 8):
        found = leave_one_out(five(), make_policy(min_references=max(3, asked)))
        assert {verdict.tier for verdict in found.verdicts} == {"A"}
        assert {verdict.counts["references"] for verdict in found.verdicts} == {4}


def test_the_model_before_is_asked_for_only_where_it_is_missing(five, make_policy):
    def without(given, split=None, state_name=None):
        states = {
            name: {k: v for k, v in splits.items() if k != split}
            for name, splits in given.plain.items()
            if name != state_name
        }
        return dataclasses.replace(given, views={View(): states})

    # before is there, and yet no control: there is nothing to compare it on
    verdict = decide(without(five(), split="holdout"), make_policy())
    assert verdict.gates[1].passed is None
    assert any("--holdout" in text for text in verdict.would_decide)
    assert not any("--before" in text for text in verdict.would_decide)
    verdict = decide(without(five(), state_name="before"), make_policy())
    assert any("--before" in text for text in verdict.would_decide)
    assert not any("--holdout" in text for text in verdict.would_decide)
    # before is there and shows nothing: another probe would help, no other model
    verdict = decide(evidence({**five().plain, "before": reference(0.0, 3)}), make_policy())
    assert verdict.gates[1].passed is False
    assert not any("--before" in text for text in verdict.would_decide)
    assert any("a stronger probe" in text for text in verdict.would_decide)


PEOPLE = [f"person {i // 2}" for i in range(10)]


@pytest.mark.parametrize(
    ("forget", "holdout", "twins"),
    [
        (["ann"] * 6, PEOPLE, 5),
        (["ann"] * 3 + ["bob"] * 3, PEOPLE, 5),
        # each record of a person of its own is compared with records
        (list("abcdef"), PEOPLE, 10),
        # records of which no person is known may all be one person's
        (None, PEOPLE, 5),
        (["ann"] * 6, None, 10),
        # a record of nobody stands for itself
        (["ann"] * 6, [*PEOPLE[:6], None, None, None, None], 7),
        (["ann"] * 5 + [None], PEOPLE, 5),
    ],
)
def test_people_are_compared_with_people_and_records_with_records(
    five, make_policy, forget, holdout, twins
):
    labels = {"forget": forget, "holdout": holdout}
    given = five(subjects={split: each for split, each in labels.items() if each is not None})
    assert f"6 records, {twins} twins" in decide(given, make_policy(min_references=6)).power


def test_a_single_record_is_one_observation_whoever_it_is_of(make_policy):
    states = {name: state([-6.0], HOLDOUT, RETAIN) for name in ("before", "after", "base")}
    alone = evidence(states, subjects={"holdout": PEOPLE})
    assert "1 record, 5 twins" in decide(alone, make_policy()).power
