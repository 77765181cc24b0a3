from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import OptionError
from unlearn_eval.membership import loss, min_k


def test_averages_the_lowest_share_of_each_record(make_scores):
    scores = make_scores(
        [[-5.0, -1.0, -9.0, -2.0, -3.0, -4.0, -6.0, -8.0, -7.0, -0.5], [-1.0, -2.0], [-3.0]]
    )
    assert min_k.score(scores).tolist() == [-8.5, -2.0, -3.0]
    assert min_k.score(scores, k=0.5).tolist() == [-7.0, -2.0, -3.0]


def test_one_token_counts_at_least_and_all_give_the_loss(make_scores):
    rng = np.random.default_rng(0)
    scores = make_scores([-rng.exponential(size=n) for n in (1, 4, 17, 30)])
    lowest = [scores.log_prob[scores.tokens(i)].min() for i in range(4)]
    np.testing.assert_array_equal(min_k.score(scores, k=1e-9), lowest)
    np.testing.assert_allclose(min_k.score(scores, k=1.0), loss.score(scores), rtol=1e-15)


@pytest.mark.parametrize(("k", "length"), [(0.29, 100), (0.2, 15), (0.1, 30), (0.07, 100)])
def test_whole_products_stay_whole(make_scores, k, length):
    scores = make_scores([-np.arange(length, dtype=float)])
    count = round(k * length)
    assert min_k.score(scores, k=k)[0] == -np.mean(np.arange(length - count, length))


def test_minus_infinity_is_the_lowest(make_scores):
    assert min_k.score(make_scores([[-np.inf, -1.0]]))[0] == -np.inf


@pytest.mark.parametrize("k", [0.0, -0.1, 20, float("nan")])
def test_refuses_a_share_outside_0_to_1(make_scores, k):
    with pytest.raises(OptionError, match=r"\(0, 1\]"):
        min_k.score(make_scores([[-1.0]]), k=k)
