from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import logit

from unlearn.errors import DataError, OptionError
from unlearn_eval.membership.calibrated import lira
from unlearn_eval.statistics import auc


def test_confidence_is_the_logit_of_the_geometric_mean(make_scores):
    scores = make_scores([[-1.0, -3.0], [-0.1], [-40.0], [0.0], [-np.inf, -1.0], [1e-6]])
    found = lira.confidence(scores)
    assert found[:2] == pytest.approx(logit(np.exp([-2.0, -0.1])))
    assert found[2] == pytest.approx(-40.0)  # unlikely: the log-probability itself
    assert found[3] == found[5] == pytest.approx(-np.log(1e-7))  # certain, within rounding
    assert found[4] == -np.inf
    assert np.all(np.diff(lira.confidence(make_scores([[-2.0], [-1.0], [-1e-3], [-1e-5]]))) > 0)


def test_offline_by_hand():
    # means 1 and 5; squares 2 and 2 over 2 spare references: σ² = 2
    references = [[0.0, 4.0], [2.0, 6.0]]
    found = lira.offline([1.0, 7.0], references)
    assert found == pytest.approx([0.0, 2 / np.sqrt(2)])
    # the paper's Λ is its normal distribution function
    expected = stats.norm.cdf(7.0, 5.0, np.sqrt(2.0))
    assert stats.norm.cdf(found[1]) == pytest.approx(expected)


def test_offline_takes_the_variance_of_each_record_where_asked():
    references = np.array([[0.0, 4.0], [2.0, 10.0]])
    found = lira.offline([3.0, 13.0], references, variance="record")
    assert found == pytest.approx([2 / np.sqrt(2), 6 / np.sqrt(18)])
    pooled = lira.offline([3.0, 13.0], references)
    assert pooled == pytest.approx([2 / np.sqrt(10), 6 / np.sqrt(10)])


def test_few_references_share_a_variance_and_many_do_not():
    rng = np.random.default_rng(0)
    for k, same in ((lira.MIN_RECORD_VARIANCE - 1, "global"), (lira.MIN_RECORD_VARIANCE, "record")):
        references, x = rng.normal(size=(k, 6)), rng.normal(size=6)
        by_rule = lira.offline(x, references)
        np.testing.assert_array_equal(by_rule, lira.offline(x, references, variance=same))


def test_references_that_saw_a_record_are_left_out():
    references = np.array([[0.0, 9.0, 1.0], [2.0, 4.0, 5.0], [50.0, 6.0, 3.0]])
    member = np.array([[False, True, False], [False, False, False], [True, False, False]])
    found = lira.offline([1.0, 5.0, 3.0], references, member)
    assert found == pytest.approx([0.0, 0.0, 0.0])


def test_online_is_the_log_likelihood_ratio():
    references = np.array([[0.0, 1.0], [2.0, 3.0], [5.0, 8.0], [9.0, 10.0]])
    member = np.array([[False] * 2, [False] * 2, [True] * 2, [True] * 2])
    x = np.array([4.0, 2.5])
    found = lira.online(x, references, member, variance="record")
    expected = [
        stats.norm.logpdf(4, 7, np.sqrt(8)) - stats.norm.logpdf(4, 1, np.sqrt(2)),
        stats.norm.logpdf(2.5, 9, np.sqrt(2)) - stats.norm.logpdf(2.5, 2, np.sqrt(2)),
    ]
    assert found == pytest.approx(expected)
    pooled = lira.online(x, references, member)
    shared = [np.sqrt(5.0), np.sqrt(2.0)]
    expected = stats.norm.logpdf(x, [7, 9], shared[0]) - stats.norm.logpdf(x, [1, 2], shared[1])
    assert pooled == pytest.approx(expected)
    # who saw what, told the other way round, turns the sign
    assert lira.online(x, references, ~member) == pytest.approx(-pooled)


def test_a_record_whose_references_agree_takes_the_variance_of_all():
    references = np.array([[3.0, 0.0], [3.0, 2.0]])
    found = lira.offline([4.0, 1.0], references, variance="record")
    assert found == pytest.approx([1 / np.sqrt(1.0), 0.0])  # pooled: 2 over 2 spare references


def test_limits():
    assert lira.offline([-np.inf, np.inf], [[0.0, 0.0], [1.0, 1.0]]).tolist() == [-np.inf, np.inf]
    # far beyond the point where Φ(z) is 1, records are still told apart
    far = lira.offline([20.0, 40.0], [[0.0, 0.0], [1.0, 1.0]])
    assert far[0] < far[1]
    for references in ([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]]):
        with pytest.raises(DataError, match="two references that never saw it and differ"):
            lira.offline([1.0, 2.0], references)
    saw_all = np.array([[True, False], [True, False]])
    with pytest.raises(DataError, match=r"never saw record 0 \(from 0\)"):
        lira.offline([1.0, 2.0], [[1.0, 2.0], [0.0, 3.0]], saw_all)
    with pytest.raises(DataError, match=r"no reference saw record 1 \(from 0\).*offline"):
        lira.online([1.0, 2.0], [[1.0, 2.0], [0.0, 3.0]], saw_all)
    with pytest.raises(DataError, match=r"record 1 \(from 0\) has no finite score in the target"):
        lira.online([1.0, -np.inf], [[1.0, 2.0], [0.0, 3.0]], np.array([[True] * 2, [False] * 2]))
    with pytest.raises(OptionError, match="'each'"):
        lira.offline([1.0], [[0.0], [1.0]], variance="each")


@pytest.mark.parametrize(
    ("target", "references", "member", "match"),
    [
        ([1.0], [1.0], None, "models, records"),
        ([1.0, 2.0], [[1.0]], None, "models, records"),
        ([1.0], np.empty((0, 1)), None, "models, records"),
        ([1.0], [[1.0]], [[1]], "true or false"),
        ([1.0], [[1.0]], [True], "true or false"),
        ([np.nan], [[1.0]], None, r"record 0 \(from 0\) is NaN"),
        ([1.0, 1.0], [[1.0, -np.inf]], None, r"record 1 \(from 0\) no finite"),
        ([1.0, 1.0], [[np.nan, 1.0]], None, r"record 0 \(from 0\) no finite"),
    ],
)
def test_refuses_what_does_not_fit(target, references, member, match):
    with pytest.raises(DataError, match=match):
        lira.offline(target, references, member)


@pytest.mark.parametrize("k", [2, 8, 64])
def test_tells_members_apart_only_if_they_differ(k):
    """Records differ far more among themselves than training on one changes it."""
    rng = np.random.default_rng(1)
    n = 1500
    level = rng.normal(-5, 3, n)
    inside = rng.random((k + 1, n)) < 0.5
    inside[:2], inside[2:4] = True, False  # each record has references on both sides
    for effect in (0.0, 1.0):
        scores = level + effect * inside + rng.normal(0, 0.5, (k + 1, n))
        chosen = rng.random(n) < 0.5
        target = level + effect * chosen + rng.normal(0, 0.5, n)
        references, member = (scores, inside) if k > 2 else (scores[:3], inside[:3])
        attacks = {"offline": lira.offline(target, references, member)} if k > 2 else {}
        attacks["all out"] = lira.offline(target, level + rng.normal(0, 0.5, (k, n)))
        if k > 2:
            attacks["online"] = lira.online(target, references, member)
        for found in attacks.values():
            area = auc(found[chosen], found[~chosen])
            if effect:
                assert area > 0.75
                assert area > auc(target[chosen], target[~chosen]) + 0.1
            else:
                assert area == pytest.approx(0.5, abs=0.045)
