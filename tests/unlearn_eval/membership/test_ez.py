from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.membership import ez


def test_is_the_share_moved_upwards_over_wrong_tokens(make_scores):
    # Δ = (+3, −1, +100): the last is a hit and does not count
    target = make_scores([[-2.0, -3.0, -0.1]], hit=[False, False, True])
    base = make_scores([[-5.0, -2.0, -100.1]])
    assert ez.score(target, base)[0] == pytest.approx(0.75)


def test_ranks_like_the_papers_ratio(make_scores):
    rng = np.random.default_rng(0)
    change = rng.normal(0, 2, (30, 9))
    base = make_scores(np.full((30, 9), -20.0))
    target = make_scores(change - 20.0)
    ratio = np.maximum(change, 0).sum(axis=1) / np.maximum(-change, 0).sum(axis=1)
    assert np.argsort(ez.score(target, base)).tolist() == np.argsort(ratio).tolist()


def test_limits(make_scores):
    target = make_scores([[-1.0]] * 5 + [[-np.inf]], hit=[True, False, False, False, False, False])
    base = make_scores([[-9.0], [-9.0], [-0.5], [-1.0], [-np.inf], [-1.0]])
    no_error, only_up, only_down, unmoved, up_by_infinity, down_by_infinity = ez.score(target, base)
    assert no_error == 1.0
    assert only_up == 1.0
    assert only_down == 0.0
    assert unmoved == 0.5
    assert up_by_infinity == 1.0
    assert down_by_infinity == 0.0


def test_a_finite_move_does_not_outweigh_an_infinite_one(make_scores):
    target = make_scores([[-1.0, -9.0], [-np.inf, -1.0]])
    base = make_scores([[-np.inf, -1.0], [-1.0, -9.0]])
    assert ez.score(target, base).tolist() == [1.0, 0.0]


def test_needs_the_base(make_scores):
    with pytest.raises(DataError, match="'ez' needs the base"):
        ez.score(make_scores([[-1.0]]))
