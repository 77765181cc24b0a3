"""Levels of models on records they never saw."""

from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.membership.calibrated.spread import levels


def test_a_value_worked_by_hand() -> None:
    # records 0 and 1 seen by none: means 1, 3, 5 of the models, hence levels −2, 0, 2
    scores = np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 6.0]])
    np.testing.assert_allclose(levels(scores, np.zeros((3, 2), bool)), [-2, 0, 2], atol=1e-12)
    # model 1 saw record 1, whose score there says nothing: record 0 alone links it to the others
    scores[1, 1] = 99
    member = np.array([[0, 0], [0, 1], [0, 0]], bool)
    np.testing.assert_allclose(levels(scores, member), [-2, 0, 2], atol=1e-12)


def test_least_squares_where_scores_do_not_add_up() -> None:
    rng = np.random.default_rng(0)
    scores, member = rng.normal(size=(5, 30)), rng.random((5, 30)) < 0.5
    member[0] = False
    k, r = np.nonzero(~member)
    design = np.zeros((len(k), 35))
    design[np.arange(len(k)), k] = 1
    design[np.arange(len(k)), 5 + r] = 1
    expected = np.linalg.lstsq(design, scores[k, r], rcond=None)[0][:5]
    np.testing.assert_allclose(levels(scores, member), expected - expected.mean(), atol=1e-9)


def test_what_models_saw_and_how_hard_records_are_do_not_enter() -> None:
    rng = np.random.default_rng(1)
    alpha = np.array([0.4, -0.1, -0.3])
    member = rng.random((3, 40)) < 0.5
    member[0] = False
    scores = alpha[:, None] + rng.normal(0, 5, 40) + 7.0 * member
    np.testing.assert_allclose(levels(scores, member), alpha, atol=1e-9)


def test_limits() -> None:
    scores = np.array([[-np.inf, 1.0], [5.0, 2.0]])
    np.testing.assert_allclose(levels(scores, np.zeros((2, 2), bool)), [-0.5, 0.5], atol=1e-12)
    with pytest.raises(DataError, match="model 1 "):
        levels(np.zeros((2, 3)), np.array([[False] * 3, [True] * 3]))
