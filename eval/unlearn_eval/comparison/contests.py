"""Tests between methods over the cells that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from unlearn_eval.comparison.lines import TableLine, lines
from unlearn_eval.comparison.outcomes import Comparison
from unlearn_eval.statistics import Ranking, friedman, holm, sign_flip_test

__all__ = ["CONTESTED", "Contest", "PairTest", "Standings", "contest", "standings"]

CONTESTED = ("gap", "rise")
"""The measures that methods are tested and ranked by: forgetting, and what it costs the rest."""

_ROUNDED = 9  # digits: equal but for rounding is a tie


@dataclass(frozen=True)
class PairTest:
    """A test of two methods on the same cells.

    Attributes:
        first: one method.
        second: the other.
        mean: mean of first − second.
        p_value: of the sign-flip test, two-sided.
        adjusted: the same after Holm's correction for all pairs.
        cells: pairs of cells.
    """

    first: str
    second: str
    mean: float
    p_value: float
    adjusted: float
    cells: int


@dataclass(frozen=True)
class Contest:
    """How methods rank by one measure.

    Attributes:
        measure: the measure.
        methods: those that have a number in every cell, best first.
        ranking: their mean ranks, in that order.
        pairs: tests of all pairs of them.
        left_out: methods without a number somewhere.
        exact: rows that retrain: what the others are measured against, and not ranked among them.
    """

    measure: str
    methods: tuple[str, ...]
    ranking: Ranking
    pairs: Sequence[PairTest]
    left_out: tuple[str, ...]
    exact: tuple[str, ...] = ()

    @property
    def least(self) -> float:
        """The smallest p-value that so many cells can give: 2/2^n."""
        return float(min(1.0, 2.0 ** (1 - self.ranking.cases)))


def contest(comparison: Comparison, measure: str) -> Contest | None:
    """Rank methods by a measure and test every pair.

    A case is a seed on a forget set. Cells of a case share records, starting point and data order,
    so differences within a case are what counts: each is as likely to have the other sign if two
    methods do not differ (exact sign-flip test). All pairs are corrected together (Holm). Rows that
    retrain are left out: nobody chooses between them and the rest by a rank, and each would have
    the others pay for one more correction.

    Args:
        comparison: the comparison.
        measure: its name; low is good.

    Returns:
        The contest; None with fewer than two methods to compare.
    """
    cases = sorted({(o.forget, o.seed) for o in comparison.outcomes})
    values = {
        (o.method, o.forget, o.seed): round(o.numbers[measure], _ROUNDED)
        for o in comparison.outcomes
        if not o.error and measure in o.numbers
    }
    rivals = [m for m in comparison.methods if m not in comparison.exact]
    whole = [m for m in rivals if all((m, *case) in values for case in cases)]
    if len(whole) < 2:
        return None
    table = np.array([[values[m, *case] for m in whole] for case in cases])
    ranking = friedman(table)
    order = sorted(range(len(whole)), key=lambda i: (ranking.ranks[i], i))
    methods = tuple(whole[i] for i in order)
    columns = table[:, order]
    tests = {
        (i, j): sign_flip_test(columns[:, i] - columns[:, j], "two-sided")
        for i, j in combinations(range(len(methods)), 2)
    }
    adjusted = holm([test.p_value for test in tests.values()])
    pairs = [
        PairTest(methods[i], methods[j], test.mean, test.p_value, float(p), test.pairs)
        for ((i, j), test), p in zip(tests.items(), adjusted, strict=True)
    ]
    return Contest(
        measure,
        methods,
        ranking._replace(ranks=ranking.ranks[order]),
        pairs,
        tuple(m for m in rivals if m not in whole),
        tuple(m for m in comparison.methods if m in comparison.exact),
    )


@dataclass(frozen=True)
class Standings:
    """A comparison summed up.

    Attributes:
        lines: a line a method, the model before and the references.
        contests: ranks and tests, one a measure of `CONTESTED` that methods can be compared by.
    """

    lines: Sequence[TableLine]
    contests: Sequence[Contest]


def standings(comparison: Comparison) -> Standings:
    """Sum a comparison up, and test its methods against each other."""
    contests = [contest(comparison, measure) for measure in CONTESTED]
    return Standings(lines(comparison), [each for each in contests if each is not None])
