from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unlearn_eval.comparison import Comparison, Outcome, Ruling
from unlearn_eval.scores.token_scores import TokenScores

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


Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def row() -> Callable[..., dict[str, Any]]:
    """Make a row of an `audit.json`."""

    def make(state: str, probe: str, metric: str, value: float | None, **more: Any) -> Any:
        plain = {"split": "forget", "deployment": "as-is", "prompt_state": "verbatim", "n": 20}
        given = {"state": state, "probe": probe, "metric": metric, "value": value}
        return plain | given | more

    return make


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    """Three methods, three seeds, two forget sets: one good, one that leaks, one that damages."""
    shape = {"good": (0.05, 0.01, 0.3), "leaky": (0.40, 0.00, 0.1), "harsh": (0.10, 1.50, 0.05)}
    outcomes = [
        Outcome(
            method,
            seed,
            forget,
            {
                "gap": gap + 0.002 * seed + 0.001 * forget,
                "auc": 0.6 + gap,
                "gap_sd": gap / 0.02,
                "rise": rise,
                "forget_recall": 0.25 if method == "leaky" else 0.0,
                "retain_recall": 1.0 - 0.5 * rise,
                "retain_loss": rise,
                "wall_share": share,
                "robust": 0.5 if method == "good" else gap,
            },
            attack="loss",
            link=f"cells/{method}-{seed}-{forget}/audit/report.html",
        )
        for forget in range(2)
        for method, (gap, rise, share) in shape.items()
        for seed in range(3)
    ]
    references = [
        Outcome(
            "references", i, f, {"gap": 0.03 * i, "auc": 0.6, "rise": 0.0, "forget_recall": 0.0}
        )
        for f in range(2)
        for i in range(3)
    ]
    before = [Outcome("before", 0, f, {"gap": 0.5, "auc": 1.0, "rise": 0.0}) for f in range(2)]
    return Comparison(
        "three methods",
        outcomes,
        before,
        references,
        ("rows:0-9", "rows:10-19"),
        {"wall": 300.0},
    )


@pytest.fixture(scope="session")
def judged(comparison: Comparison) -> Comparison:
    """The same with verdicts: good is open but with seed 2, which passes; the others fail."""
    fails = Ruling("FAIL", "C", ("loss tells them apart",))
    passes = Ruling("PASS", "C", ("loss is guessing",))
    wanted = ("5 references (there are 3)",)

    def ruled(o: Outcome) -> Outcome:
        if o.method in ("before", "leaky", "harsh"):
            return replace(o, ruling=fails)
        if o.method == "references":
            open_ = Ruling("INCONCLUSIVE", "C", ("loss is wide",), wanted)
            return replace(o, ruling=fails if (o.seed, o.forget) == (2, 1) else open_)
        more = (f"more of set {o.forget}", *wanted)
        return replace(
            o,
            ruling=passes if o.seed == 2 else Ruling("INCONCLUSIVE", "C", ("loss is wide",), more),
        )

    return replace(
        comparison,
        outcomes=[ruled(o) for o in comparison.outcomes],
        before=[ruled(o) for o in comparison.before],
        references=[ruled(o) for o in comparison.references],
        policy="standard",
    )
