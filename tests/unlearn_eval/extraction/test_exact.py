from __future__ import annotations

from unlearn_eval.extraction import exact


def test_is_the_fraction_of_hits(make_hits):
    assert exact.score(make_hits("++-+", "-", "+-")).tolist() == [0.75, 0.0, 0.5]
