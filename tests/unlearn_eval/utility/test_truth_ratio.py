from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.errors import DataError, OptionError
from unlearn_eval.utility.truth_ratio import forget_score, truth_ratio, utility_score

INF = math.inf


def test_both_means_worked_by_hand():
    # p(truth) = 1/2; false answers 1/4 and 1/16: geometric mean 1/8, arithmetic mean 5/32
    truth, false = [math.log(2)], [[math.log(4), math.log(16)]]
    assert truth_ratio(truth, false)[0] == pytest.approx(1 / 4)
    assert truth_ratio(truth, false, "arithmetic")[0] == pytest.approx(5 / 16)


def test_the_truth_preferred_is_below_one_and_scores_as_utility():
    ratio = truth_ratio([0.1, 3.0, 1.0], [[2.0], [0.5, 0.5], [1.0]])
    assert ratio[0] < 1 < ratio[1]
    assert ratio[2] == 1
    assert utility_score(ratio) == pytest.approx([1 - math.exp(-1.9), 0, 0])
    assert forget_score(ratio) == pytest.approx([math.exp(-1.9), math.exp(-2.5), 1])


def test_limits():
    #        only truth impossible, only falsehood, both, one of two falsehoods
    truth = [INF, 1.0, INF, 1.0]
    false = [[1.0], [INF, INF], [INF, INF], [INF, 1.0]]
    assert truth_ratio(truth, false).tolist() == [INF, 0, 1, 0]
    arithmetic = truth_ratio(truth, false, "arithmetic")
    assert arithmetic[:3].tolist() == [INF, 0, 1]
    assert arithmetic[3] == pytest.approx(0.5)
    ratio = np.array([INF, 0.0, 1.0])
    assert forget_score(ratio).tolist() == [0, 0, 1]
    assert utility_score(ratio).tolist() == [0, 1, 0]
    # beyond float64, not an error
    assert truth_ratio([2000.0], [[1.0]]).tolist() == [INF]


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.lists(st.floats(0, 30), min_size=1, max_size=6)),
        min_size=1,
        max_size=5,
    )
)
def test_against_the_definition(rows):
    truth, false = [t for t, _ in rows], [f for _, f in rows]
    p = [np.exp(-np.array(f)) for f in false]
    geometric, arithmetic = truth_ratio(truth, false), truth_ratio(truth, false, "arithmetic")
    np.testing.assert_allclose(
        geometric, [np.prod(x) ** (1 / len(x)) * math.exp(t) for t, x in zip(truth, p, strict=True)]
    )
    np.testing.assert_allclose(
        arithmetic, [x.mean() * math.exp(t) for t, x in zip(truth, p, strict=True)]
    )
    assert (geometric <= arithmetic * (1 + 1e-12)).all()
    # swapping truth and a single falsehood inverts R and leaves the forget score alone
    one = truth_ratio(truth, [[f[0]] for f in false])
    swapped = truth_ratio([f[0] for f in false], [[t] for t in truth])
    np.testing.assert_allclose(forget_score(one), forget_score(swapped))


@pytest.mark.parametrize(
    ("truth", "false", "message"),
    [
        ([1.0], [], "0 lists of perturbed losses for 1"),
        ([], [], "paraphrase losses"),
        ([1.0, 1.0], [[1.0], []], "perturbed losses of record 1"),
        ([math.nan], [[1.0]], "paraphrase losses: value 0"),
        ([1.0], [[1.0, math.nan]], "perturbed losses of record 0: value 1"),
    ],
)
def test_refuses_what_has_no_ratio(truth, false, message):
    with pytest.raises(DataError, match=message):
        truth_ratio(truth, false)


def test_refuses_an_unknown_mean():
    with pytest.raises(OptionError, match="geometric or arithmetic"):
        truth_ratio([1.0], [[1.0]], "harmonic")  # type: ignore[arg-type]
