"""Mean ranks and the critical difference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unlearn.errors import DataError, OptionError
from unlearn_eval.statistics import critical_difference, friedman

# Demšar (2006), table 5 (a): q of the two-tailed Nemenyi test at 5 % and 10 %
PUBLISHED = {2: (1.960, 1.645), 3: (2.343, 2.052), 5: (2.728, 2.459), 10: (3.164, 2.920)}


@pytest.mark.parametrize("methods", PUBLISHED)
def test_critical_difference_has_the_published_quantiles(methods):
    for level, q in zip((0.95, 0.90), PUBLISHED[methods], strict=True):
        found = critical_difference(methods, 14, level)
        assert found == pytest.approx(q * math.sqrt(methods * (methods + 1) / 84), rel=5e-4)


def test_ranks_by_hand():
    # by row: ranks 1 2 3; 1.5 1.5 3 (a tie); 2 1 3; 1 2 3
    table = [[0.1, 0.2, 0.3], [0.5, 0.5, 0.9], [0.4, 0.2, 0.7], [0.0, 1.0, 2.0]]
    found = friedman(table)
    assert found.ranks.tolist() == [1.375, 1.625, 3.0]
    assert found.cases == 4
    # 12 N/(k(k + 1)) Σ (R − (k + 1)/2)², divided by 1 − ties/(N k (k² − 1)), one tie of two: 6/96
    plain = 12 * 4 / 12 * sum((r - 2) ** 2 for r in (1.375, 1.625, 3.0))
    assert found.p_value == pytest.approx(math.exp(-plain / (1 - 6 / 96) / 2))  # χ² with 2 degrees
    assert friedman(np.array(table)[:, ::-1]).ranks.tolist() == [3.0, 1.625, 1.375]


def test_limits():
    assert friedman(np.ones((3, 3))).p_value == 1.0
    assert math.isnan(friedman([[1.0, 2.0]]).p_value)  # two methods, one case
    assert friedman([[1.0, 2.0]]).ranks.tolist() == [1.0, 2.0]
    for bad in ([[1.0]], [1.0, 2.0], [[1.0, math.nan]]):
        with pytest.raises(DataError):
            friedman(bad)
    with pytest.raises(OptionError, match="nothing to rank"):
        critical_difference(1, 5)
