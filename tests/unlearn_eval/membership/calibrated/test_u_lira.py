from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.membership.calibrated import u_lira
from unlearn_eval.statistics import auc


def test_by_hand():
    unlearned, retrained = [[1.0], [3.0]], [[4.0], [8.0], [6.0]]
    found = u_lira.score([3.0], unlearned, retrained)
    expected = stats.norm.logpdf(3, 2, np.sqrt(2)) - stats.norm.logpdf(3, 6, 2)
    assert found == pytest.approx([expected])
    assert found[0] > 0
    assert u_lira.score([3.0], retrained, unlearned) == pytest.approx(-found)


@pytest.mark.parametrize("effect", [-1.5, 0.0, 1.5])
def test_finds_traces_on_either_side_and_none_where_there_are_none(effect):
    """A method that pushes a record below unseen ones is recognised like one that leaves it up."""
    rng = np.random.default_rng(0)
    n, k = 1500, 8
    level = rng.normal(-5, 3, n)
    unlearned, retrained = (level + shift + rng.normal(0, 0.7, (k, n)) for shift in (effect, 0.0))
    trained = rng.random(n) < 0.5
    target = level + effect * trained + rng.normal(0, 0.7, n)
    found = u_lira.score(target, unlearned, retrained)
    area = auc(found[trained], found[~trained])
    assert area > 0.85 if effect else area == pytest.approx(0.5, abs=0.04)


def test_refuses_models_of_other_records():
    with pytest.raises(DataError, match="unlearned and of retrained"):
        u_lira.score([1.0], [[1.0], [2.0]], [[1.0, 2.0]])
    with pytest.raises(DataError, match="two references that saw it and differ"):
        u_lira.score([1.0], [[1.0]], [[1.0], [2.0]])
