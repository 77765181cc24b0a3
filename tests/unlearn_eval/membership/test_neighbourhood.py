from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.membership.neighbourhood import score


def test_by_hand():
    assert score([-1.0, -3.0], [[-2.0, -4.0], [-3.5, -2.5]]).tolist() == [2.0, 0.0]


def test_a_record_far_above_its_neighbours_is_a_member():
    member, other = score([-0.1, -2.0], [[-3.0], [-2.5]])
    assert member > other


def test_limits():
    inf = np.inf
    assert score([-inf, -1.0, -inf], [[-inf], [-inf], [-1.0]]).tolist() == [0, inf, -inf]
    assert score([], np.zeros((0, 3))).shape == (0,)


def test_refuses_what_does_not_fit():
    with pytest.raises(DataError, match="record 1"):
        score([-1.0, -1.0], [[-1.0], [np.nan]])
    with pytest.raises(DataError, match="shapes"):
        score([-1.0], np.zeros((1, 0)))
    with pytest.raises(DataError, match="shapes"):
        score([-1.0], [-1.0])
