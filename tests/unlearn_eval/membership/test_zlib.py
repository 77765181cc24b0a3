from __future__ import annotations

import pytest

from unlearn.errors import DataError
from unlearn_eval.membership import zlib


def test_divides_by_the_compressed_length(make_scores):
    scores = make_scores([[-1.0, -3.0], [-2.0]], text_bytes=[10, 40])
    assert zlib.score(scores).tolist() == [-0.2, -0.05]


def test_needs_the_compressed_length(make_scores):
    with pytest.raises(DataError, match="compressed length"):
        zlib.score(make_scores([[-1.0]]))
    with pytest.raises(DataError, match="'r1'"):
        zlib.score(make_scores([[-1.0], [-1.0]], text_bytes=[9, 0]))
