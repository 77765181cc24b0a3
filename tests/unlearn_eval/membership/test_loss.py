from __future__ import annotations

import numpy as np

from unlearn_eval.membership import loss


def test_is_the_mean_log_probability(make_scores):
    scores = make_scores([[-1.0, -3.0], [-0.5], [-np.inf, -1.0]])
    assert loss.score(scores).tolist() == [-2.0, -0.5, -np.inf]
