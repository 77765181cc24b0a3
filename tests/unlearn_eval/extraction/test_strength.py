from __future__ import annotations

import pytest

from unlearn_eval.extraction import strength


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        ("++++", 1.0),
        ("-+++", 0.75),
        ("+-++", 0.5),
        ("---+", 0.25),
        ("+++-", 0.0),
        ("----", 0.0),
        ("-", 0.0),
        ("+", 1.0),
    ],
)
def test_is_the_share_after_the_last_miss(make_hits, hits, expected):
    # neighbours show that a record does not see the tokens of another
    assert strength.score(make_hits("+++", hits, "-+"))[1] == expected
