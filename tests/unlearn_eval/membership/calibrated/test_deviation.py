from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.membership.calibrated import deviation
from unlearn_eval.statistics import auc


def test_is_the_distance_from_the_median_in_either_direction():
    references = [[-3.0, -1.0], [-4.0, -2.0], [-9.0, -3.0]]
    assert deviation.score([-6.0, -0.5], references).tolist() == [2.0, 1.5]
    assert deviation.score([-2.0, -2.0], references).tolist() == [2.0, 0.0]
    assert deviation.score([-np.inf, -2.0], references).tolist() == [np.inf, 0.0]
    # an even number: the middle of the middle two
    assert deviation.score([0.0], [[1.0], [2.0], [4.0], [90.0]]).tolist() == [3.0]


@pytest.mark.parametrize("n", [2, 3, 4, 7, 10, 31])
def test_unseen_records_are_compared_with_all_others(n):
    values = np.random.default_rng(n).integers(0, 6, n).astype(float)  # with ties
    expected = [abs(v - np.median(np.delete(values, i))) for i, v in enumerate(values)]
    np.testing.assert_array_equal(deviation.among(values), expected)


def test_refuses_what_has_no_median():
    for values in ([1.0], [], [1.0, np.inf], [[1.0, 2.0]], [1.0, np.nan]):
        with pytest.raises(DataError, match="two or more finite"):
            deviation.among(values)
    with pytest.raises(DataError, match="no finite score"):
        deviation.score([1.0], [[-np.inf], [1.0]])
    with pytest.raises(DataError, match="models, records"):
        deviation.score([1.0, 2.0], [[1.0]])


def test_finds_what_an_auc_of_one_half_hides():
    """Half the records are left at loss 3, half pushed to 14; unseen ones lie about 7."""
    rng = np.random.default_rng(0)
    unseen = rng.normal(-7, 1, 400)
    forgotten = np.concatenate((rng.normal(-3, 1, 200), rng.normal(-14, 1, 200)))
    assert auc(forgotten, unseen) == pytest.approx(0.5, abs=0.03)
    comparators = np.repeat(unseen[:, None], 400, axis=1)
    assert auc(deviation.score(forgotten, comparators), deviation.among(unseen)) > 0.98
    clean = rng.normal(-7, 1, 400)
    found = auc(deviation.score(clean, comparators), deviation.among(unseen))
    assert found == pytest.approx(0.5, abs=0.06)


def test_references_remove_what_records_differ_by():
    rng = np.random.default_rng(1)
    level, other = rng.normal(-6, 2, 300), rng.normal(-6, 2, 300)
    for effect, low, high in ((0.0, 0.44, 0.56), (1.5, 0.9, 1.0)):
        sign = rng.choice([-1, 1], 300)
        member = level + effect * sign + rng.normal(0, 0.4, 300)
        nonmember = other + rng.normal(0, 0.4, 300)
        found = auc(
            deviation.score(member, level + rng.normal(0, 0.4, (5, 300))),
            deviation.score(nonmember, other + rng.normal(0, 0.4, (5, 300))),
        )
        assert low <= found <= high
