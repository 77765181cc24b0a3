"""What a verdict rests on: who counts as a subject, which views and references there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.verdict.decision import Evidence, Twins, View
from unlearn_eval.verdict.evidence import MissingError, part_of, reason

from .cases import policy
from .conftest import evidence, state


def models(*names: str, n: int = 3, unseen: int = 4) -> dict[str, Any]:
    """States of which each has a value of its own."""
    return {
        name: state(np.full(n, -1.0 - i), np.full(unseen, -9.0)) for i, name in enumerate(names)
    }


def test_references_are_sorted_by_number() -> None:
    names = ["after", "reference:10", "reference:9", "base", "reference:b", "reference:a"]
    given = evidence(models(*names), partial=frozenset({"reference:10", "reference:a"}),
                     unproven={"reference:9": "", "reference:b": ""})  # fmt: skip
    assert given.references == ["reference:9", "reference:10", "reference:a", "reference:b"]
    assert given.part_trained == ["reference:10", "reference:a"]
    assert given.doubtful == ["reference:9", "reference:b"]


@pytest.mark.parametrize(
    ("labels", "count", "one"),
    [
        (["a", "a", "a"], 1, True),
        (["a", "b", "a"], 2, False),
        (["a", None, "a"], 2, False),
        (["a", None, None], 3, False),
        ([None, None, None], None, False),
        (None, None, False),
    ],
)
def test_a_record_without_a_subject_is_one_of_its_own(labels: Any, count: Any, one: bool) -> None:
    given = evidence(models("after"), subjects={} if labels is None else {"forget": labels})
    assert list(given.forget_subjects) == (labels or [None] * 3)
    assert (given.subject_count, given.one_subject) == (count, one)


def test_one_record_is_one_observation() -> None:
    assert evidence(models("after", n=1)).one_subject
    assert evidence(models("after", n=1)).subject_count is None


def test_views_of_declared_forms_and_prompt_states() -> None:
    plain = models("before", "after")
    views = {
        View(): plain,
        View("int4 group=32"): models("after"),
        View("int8"): models("reference:0"),
        View("nf4"): models("after"),
        View("int8", "few_shot"): models("after"),
        View("as-is", "few_shot"): models("after"),
        View("as-is", "role_play"): models("before"),
    }
    given = Evidence(views)
    rules = policy(deployments=["int4", "int8"], prompt_states=["role_play", "few_shot"])
    # of the int8 form and of role play the audited model was not scored
    assert given.audited(rules) == [View(), View("int4 group=32")]
    assert given.asked(rules) == [View("as-is", "few_shot")]
    assert given.asked(policy()) == []
    assert Evidence({**views, View("int8"): models("after")}).audited(rules)[1:] == [
        View("int4 group=32"),
        View("int8"),
    ]


def test_treated_models_are_compared_with_the_base_as_it_is() -> None:
    plain, own = models("base", "after"), models("after", "base")
    bare = models("after")
    few = View("as-is", "few_shot")
    given = Evidence({View(): plain, View("int8"): bare, View("int4"): own, few: bare})
    assert given.scores(View()) is plain
    assert given.scores(View("int8")) == {**bare, "base": plain["base"]}
    assert given.scores(View("int4")) is own
    # the base was not asked that way
    assert given.scores(few) is bare
    assert Evidence({View(): bare, View("int8"): own}).scores(View("int8")) is own


def test_a_reference_takes_the_place_of_the_audited_model() -> None:
    plain = models("before", "after", "reference:0", "reference:1")
    rounded = models("after", "reference:1")
    given = Evidence({View(): plain, View("int8"): rounded}, unproven={"reference:1": "x"})
    moved = given.as_audited("reference:0")
    assert set(moved.plain) == {"before", "after", "reference:1"}
    assert moved.plain["after"] is plain["reference:0"]
    # a form in which it was not scored has no audited model
    assert set(moved.views[View("int8")]) == {"reference:1"}
    assert moved.unproven == given.unproven
    assert given.plain is plain


def test_a_missing_part_is_named_and_a_record_is_not() -> None:
    plain = models("after")
    assert part_of(plain, "after", "forget") is plain["after"]["forget"]
    for name, split in (("before", "forget"), ("after", "retain")):
        with pytest.raises(MissingError) as caught:
            part_of(plain, name, split)
        assert str(caught.value) == f"the state {name!r} was not scored on the split {split!r}"
        assert reason(caught.value) == str(caught.value)
    assert reason(DataError("record 'r1' is NaN")) == "some record has no finite score"


@pytest.mark.parametrize(
    ("positions", "randomised", "message"),
    [
        ([0, 1, 2], False, r"twins of shape \(3,\) for 3 records; give"),
        ([[0], [1]], False, r"twins of shape \(2, 1\) for 3 records; give"),
        ([[], [], []], False, r"twins of shape \(3, 0\) for 3 records; give"),
        ([[0], [1], [4]], False, "a twin is not among"),
        ([[0], [1], [-1]], False, "a twin is not among"),
        ([[0, 1], [1, 2], [2, 3]], True, "2 twins a record: a canary has one"),
    ],
)
def test_twins_that_are_none_are_refused(positions: Any, randomised: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evidence(models("after"), twins=Twins(np.array(positions, dtype=np.int64), randomised))


def test_twins_that_are_some_are_not() -> None:
    many = Twins(np.array([[0, 3], [1, 2], [2, 0]]))
    assert evidence(models("after"), twins=many).twins is many
    coin = Twins(np.array([[3], [0], [2]]), randomised=True)
    assert evidence(models("after"), twins=coin).twins is coin
    with pytest.raises(DataError, match="a twin is not among"):
        evidence({"after": state(np.full(3, -1.0), None)}, twins=coin)


def test_subjects_must_be_as_many_as_records() -> None:
    for split, n in (("forget", 2), ("holdout", 5)):
        with pytest.raises(DataError, match=f"^{n} subjects for . records of '{split}'"):
            evidence(models("after"), subjects={split: ["a"] * n})
    # those of a split that was not scored count for nothing
    assert evidence(models("after"), subjects={"retain": ["a"]}).subject_count is None
    with pytest.raises(DataError, match="nothing to judge"):
        evidence({"after": {}})
    with pytest.raises(DataError, match="nothing to judge"):
        Evidence({View("int8"): models("after")})
