from __future__ import annotations

import numpy as np

from unlearn_eval.extraction import verbatim


def test_every_token_must_hit(make_hits):
    found = verbatim.score(make_hits("+++", "++-", "-++", "+", "-"))
    assert found.dtype == np.bool_
    assert found.tolist() == [True, False, False, True, False]
