from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError, OptionError
from unlearn_eval.membership.calibrated import quantile
from unlearn_eval.statistics import auc


def pinball(values, features, line, level):
    left = values - line[0] - features @ line[1:]
    return np.sum(left * (level - (left < 0)))


def test_without_features_it_is_the_quantile():
    values = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 7.0])
    # 90 % of 7 is 6.3: the loss is least at the seventh value; of 50 %, 3.5: at the fourth
    empty = np.empty((7, 0))
    assert quantile.fit(values, empty, 0.9) == pytest.approx([9.0])
    assert quantile.fit(values, empty, 0.5) == pytest.approx([4.0])
    assert quantile.fit(values, empty, 0.1) == pytest.approx([1.0])


def test_finds_a_line_that_points_lie_on():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 10, (60, 2))
    values = 2 + features @ [0.5, -3.0]
    values[:5] -= 100  # below the 90 % quantile, however far
    assert quantile.fit(values, features, 0.9) == pytest.approx([2.0, 0.5, -3.0])


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_no_other_line_has_a_smaller_loss(level):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(80, 2))
    values = features @ [1.0, 2.0] + rng.normal(size=80) * (1 + features[:, 0] ** 2)
    line = quantile.fit(values, features, level)
    least = pinball(values, features, line, level)
    for step in rng.normal(0, 0.05, (200, 3)):
        assert pinball(values, features, line + step, level) >= least - 1e-9
    # as many points lie below as the level says, but for those on the line
    below = np.sum(values < line[0] + features @ line[1:] - 1e-9)
    assert level * 80 - 3 <= below <= level * 80


def test_a_feature_that_never_varies_changes_nothing():
    rng = np.random.default_rng(2)
    features, values = rng.normal(size=(50, 1)), rng.normal(size=50)
    wider = np.column_stack((features, np.full(50, 7.0)))
    line, same = quantile.fit(values, features, 0.9), quantile.fit(values, wider, 0.9)
    assert features @ line[1:] + line[0] == pytest.approx(wider @ same[1:] + same[0])


def test_a_non_member_is_never_predicted_by_its_own_group():
    """Were it, an outlier would pull the line up to itself."""
    rng = np.random.default_rng(3)
    n = 60
    values, features = rng.normal(size=n), rng.normal(size=(n, 1))
    groups = [f"person {i // 2}" for i in range(n)]
    plain = quantile.compare([0.0], [[0.0]], values, features, groups)
    moved = values.copy()
    moved[:2] += 1000.0  # the whole of one person
    found = quantile.compare([0.0], [[0.0]], moved, features, groups)
    np.testing.assert_allclose(found.nonmember[:2], plain.nonmember[:2] + 1000.0)


def test_order_of_records_does_not_matter():
    rng = np.random.default_rng(4)
    values, features, groups = rng.normal(size=70), rng.normal(size=(70, 2)), np.arange(70) // 3
    member, of_member = rng.normal(size=9), rng.normal(size=(9, 2))
    one = quantile.compare(member, of_member, values, features, groups)
    order = rng.permutation(70)
    two = quantile.compare(member, of_member, values[order], features[order], groups[order])
    np.testing.assert_allclose(two.member, one.member, rtol=1e-9)
    np.testing.assert_allclose(two.nonmember, one.nonmember[order], rtol=1e-9)


def test_says_how_many_would_do():
    assert quantile.needed(3) == 50  # 4 coefficients, 10 records each, 4 of 5 folds
    assert quantile.needed(0, alpha=0.05) == 25
    args = np.zeros(2), np.zeros((2, 3)), np.arange(49.0), np.zeros((49, 3)), range(49)
    with pytest.raises(DataError, match="49 unseen records are too few.* 90% .*50 would"):
        quantile.compare(*args)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"member": [np.nan]}, r"members: record 0"),
        ({"nonmember": np.r_[np.zeros(59), -np.inf]}, r"unseen records: record 59"),
        ({"member_features": [[np.inf]]}, "members: record 0"),
        ({"member_features": [[1.0, 2.0]]}, "2 features of members"),
        ({"groups": ["a"] * 59}, "59 groups of 60"),
        ({"groups": ["a", "b"] * 30}, "2 subjects cannot be split into 5"),
        ({"nonmember": np.zeros((60, 1))}, "unseen records: scores"),
    ],
)
def test_refuses_what_does_not_fit(changes, match):
    rng = np.random.default_rng(5)
    given = {
        "member": [0.0],
        "member_features": [[0.0]],
        "nonmember": rng.normal(size=60),
        "nonmember_features": rng.normal(size=(60, 1)),
        "groups": list(range(60)),
    }
    with pytest.raises(DataError, match=match):
        quantile.compare(**(given | changes))


def test_refuses_impossible_options():
    args = [0.0], [[0.0]], np.zeros(60), np.zeros((60, 1)), range(60)
    for options in ({"alpha": 0}, {"alpha": 1}, {"folds": 1}):
        with pytest.raises(OptionError):
            quantile.compare(*args, **options)


def test_tells_members_apart_only_if_they_differ():
    rng = np.random.default_rng(6)
    n = 400

    def draw(effect):
        base, length = rng.normal(-6, 2, n), rng.uniform(2, 6, n)
        score = 0.9 * base + 0.3 * length + effect + rng.normal(0, 0.5, n)
        return score, np.column_stack((base, length))

    unseen, features = draw(0.0)
    for effect in (0.0, 1.0):
        member, of_member = draw(effect)
        found = quantile.compare(member, of_member, unseen, features, range(n))
        area = auc(found.member, found.nonmember)
        share = np.mean(found.nonmember > 0)
        assert share == pytest.approx(quantile.ALPHA, abs=0.04)  # the rate that was asked for
        if effect:
            assert area > 0.85
            assert area > auc(member, unseen) + 0.15
        else:
            assert area == pytest.approx(0.5, abs=0.05)
