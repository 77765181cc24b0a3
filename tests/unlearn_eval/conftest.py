from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from unlearn_eval.scores import TokenScores

MakeScores = Callable[..., TokenScores]


@pytest.fixture
def make_scores() -> MakeScores:
    """Build scores from one list of log-probabilities a record; the rest has defaults."""

    def make(log_prob: Sequence[Sequence[float]], /, **columns: Any) -> TokenScores:
        lengths = [len(record) for record in log_prob]
        total = sum(lengths)
        defaults: dict[str, Any] = {
            "ids": tuple(f"r{i}" for i in range(len(lengths))),
            "offsets": np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
            "log_prob": np.array([x for record in log_prob for x in record], dtype=np.float64),
            "hit": np.zeros(total, dtype=bool),
            "rank": np.ones(total, dtype=np.int64),
            "mean": np.full(total, -2.0),
            "std": np.ones(total),
            "entropy": np.full(total, 2.0),
        }
        return TokenScores(**(defaults | columns))

    return make


@pytest.fixture
def make_hits(make_scores: MakeScores) -> MakeScores:
    """Build scores from strings such as "+-+", one a record: + is an arg-max hit."""

    def make(*records: str) -> TokenScores:
        hits = np.array([c == "+" for record in records for c in record])
        return make_scores([[-1.0] * len(record) for record in records], hit=hits)

    return make
