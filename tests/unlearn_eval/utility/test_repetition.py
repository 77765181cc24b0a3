from __future__ import annotations

import pytest

from unlearn_eval.utility.repetition import distinct, repetition


def test_worked_by_hand():
    # bigrams of a b a b a: ab ba ab ba → 2 different of 4
    assert distinct([list("ababa")], n=2).tolist() == [0.5]
    # 4-grams of aaaaaa: three, all the same
    assert repetition([list("aaaaaa")], n=4).tolist() == [pytest.approx(2 / 3)]
    assert repetition([list("abcdefg")], n=4).tolist() == [0.0]


def test_too_short_for_an_n_gram():
    assert distinct([[], ["a"]], n=2).tolist() == [1.0, 1.0]
    assert repetition([[], ["a"]], n=4).tolist() == [0.0, 0.0]
    assert distinct([]).shape == (0,)
