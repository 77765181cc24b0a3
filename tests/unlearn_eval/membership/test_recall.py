from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.membership import con_recall, recall


def test_by_hand():
    assert recall.score([-3.0, -2.0], [-1.5, -2.0]).tolist() == [2.0, 1.0]
    # (−3 + 0.5 · 1) / −1.5 and (−2.2 + 0.5 · 3) / −2
    found = con_recall.score([-3.0, -2.2], [-1.0, -3.0], [-1.5, -2.0])
    assert found == pytest.approx([5 / 3, 0.35])
    assert con_recall.score([-3.0], [-1.0], [-1.5], gamma=0).tolist() == [2.0]
    assert con_recall.score([-3.0], [-1.0], [-1.5], gamma=1.0) == pytest.approx([4 / 3])


def test_members_lose_more_after_unseen_records_and_less_after_members():
    plain = np.array([-1.0, -3.0])  # a member, and a record never seen
    nonmember, member = np.array([-1.6, -3.1]), np.array([-0.9, -3.4])
    for found in (recall.score(nonmember, plain), con_recall.score(nonmember, member, plain)):
        assert found[0] > found[1]


def test_limits():
    inf = np.inf
    found = recall.score([0.0, -1e-3, -inf, -inf, -1.0, 1e-8], [0.0, 0.0, -inf, -1.0, -inf, 0.0])
    assert found[[0, 2, 3, 4, 5]].tolist() == [1, 1, inf, 0, 1]
    assert found[1] == pytest.approx(1e4)  # certain without the prefix: float32 tells 1e-7
    assert con_recall.score([-inf], [-1.0], [-1.0]).tolist() == [inf]
    assert con_recall.score([-1.0], [-inf], [-1.0]).tolist() == [-inf]
    assert con_recall.score([-inf], [-inf], [-inf]).tolist() == [0.5]
    assert recall.score([], []).shape == (0,)


def test_refuses_what_has_no_score():
    with pytest.raises(DataError, match="'recall': record 1"):
        recall.score([-1.0, np.nan], [-1.0, -1.0])
    with pytest.raises(DataError, match="shapes"):
        recall.score([-1.0], [-1.0, -1.0])
    with pytest.raises(DataError, match="both prefixes rule record 0"):
        con_recall.score([-np.inf], [-np.inf], [-1.0])
