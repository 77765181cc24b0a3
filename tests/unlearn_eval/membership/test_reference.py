from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.membership import reference


def test_is_the_difference_of_means(make_scores):
    target = make_scores([[-1.0, -3.0], [-5.0]])
    base = make_scores([[-2.0, -3.0], [-4.0]])
    assert reference.score(target, base).tolist() == [0.5, -1.0]
    assert reference.score(base, target).tolist() == [-0.5, 1.0]


def test_tokens_impossible_under_both_models_say_nothing(make_scores):
    target = make_scores([[-np.inf, -1.0], [-1.0, -1.0], [-np.inf, -1.0]])
    base = make_scores([[-np.inf, -3.0], [-np.inf, -1.0], [-1.0, -1.0]])
    assert reference.score(target, base).tolist() == [1.0, np.inf, -np.inf]


def test_infinities_of_both_signs_have_no_sum(make_scores):
    target = make_scores([[-1.0, -1.0], [-np.inf, -1.0]])
    base = make_scores([[-1.0, -1.0], [-1.0, -np.inf]])
    with pytest.raises(DataError, match="record 'r1'"):
        reference.score(target, base)


def test_needs_a_base_of_the_same_tokens(make_scores):
    target = make_scores([[-1.0, -2.0], [-1.0]])
    with pytest.raises(DataError, match="'reference' needs the base"):
        reference.score(target)
    with pytest.raises(DataError, match="different records or tokens"):
        reference.score(target, target.take([1, 0]))
    with pytest.raises(DataError, match="different records or tokens"):
        reference.score(target, make_scores([[-1.0], [-1.0, -2.0]]))
