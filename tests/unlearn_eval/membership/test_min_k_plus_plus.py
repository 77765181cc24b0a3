from __future__ import annotations

import numpy as np
import pytest

from unlearn_eval.membership import min_k, min_k_plus_plus


def test_standardises_before_taking_the_lowest(make_scores):
    # z = (−1, −4, 1/2): the lowest ℓ is not the lowest z
    scores = make_scores([[-3.0, -4.0, -6.0]], mean=[-2.0, -2.0, -7.0], std=[1.0, 0.5, 2.0])
    assert min_k_plus_plus.score(scores)[0] == -4.0
    assert min_k_plus_plus.score(scores, k=1.0)[0] == pytest.approx((-1 - 4 + 0.5) / 3)


def test_is_min_k_when_all_tokens_have_one_distribution(make_scores):
    rng = np.random.default_rng(1)
    scores = make_scores([-rng.exponential(size=20) for _ in range(3)])
    np.testing.assert_allclose(
        min_k_plus_plus.score(scores, k=0.3), min_k.score(scores, k=0.3) + 2.0, rtol=1e-14
    )


def test_a_vanishing_deviation_neither_divides_by_zero_nor_amplifies_rounding(make_scores):
    scores = make_scores([[-1e-7], [-9.0]], mean=[0.0, 0.0], std=[0.0, 0.0])
    certain, surprised = min_k_plus_plus.score(scores)
    assert abs(certain) < 0.01
    assert np.isfinite(surprised)
    assert surprised < -1e4
