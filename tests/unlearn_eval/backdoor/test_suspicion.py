"""Suspicion by hand."""

from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.backdoor.suspicion import hits_at, ranks, spectral


def test_spectral_signatures_by_hand() -> None:
    # all on a line through their mean (3, 4): the main direction is (3, 4)/5
    features = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    assert spectral(features) == pytest.approx([25.0, 0.0, 25.0])


def test_a_small_group_far_away_comes_first() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 16))
    features[:10] += 8
    assert set(np.argsort(-spectral(features))[:10]) == set(range(10))
    # whatever moves all alike moves nothing
    assert spectral(features + 3.0) == pytest.approx(spectral(features))


def test_what_has_no_direction_is_refused() -> None:
    with pytest.raises(DataError, match="two records or more"):
        spectral(np.ones((1, 4)))
    with pytest.raises(DataError, match="not finite"):
        spectral(np.array([[np.nan], [0.0]]))


def test_ranks_and_hits() -> None:
    assert ranks([0.5, 2.0, 2.0, -1.0]).tolist() == [3.0, 1.5, 1.5, 4.0]
    assert [hits_at(["a", "b", "c"], {"c", "a"}, k) for k in (0, 1, 2, 3)] == [0, 1, 1, 2]
