from __future__ import annotations

import pytest

from unlearn_eval.utility import rouge


def test_worked_by_hand():
    # longest common subsequence of words "the cat on mat": 4; recall 4/6, precision 4/5
    found = rouge.score(["the cat on a mat"], ["the cat sat on the mat"])
    assert found.recall[0] == pytest.approx(4 / 6)
    assert found.f1[0] == pytest.approx(2 * (4 / 6) * (4 / 5) / (4 / 6 + 4 / 5))


def test_words_are_stemmed_and_case_and_points_do_not_count():
    found = rouge.score(["Running, RUNS!"], ["run run"])
    assert found.recall[0] == found.f1[0] == 1.0


def test_limits():
    found = rouge.score(["", "word", "", "same"], ["word", "", "", "same"])
    assert found.recall.tolist() == [0, 0, 0, 1]
    assert found.f1.tolist() == [0, 0, 0, 1]
    assert rouge.score([], []).recall.shape == (0,)
    with pytest.raises(ValueError, match="shorter"):
        rouge.score(["a"], [])
