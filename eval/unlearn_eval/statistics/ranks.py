"""Mean ranks of several methods over the same cases, and how far apart they must be."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.statistics.common import check_level

__all__ = ["Ranking", "critical_difference", "friedman"]


class Ranking(NamedTuple):
    """Mean ranks with the test that they are all the same.

    Attributes:
        ranks: float64[k], mean rank of each method; 1 is the lowest value in every case.
        p_value: Friedman's; 1 where all ranks are tied, NaN for fewer than 3 methods or 2 cases.
        difference: Nemenyi's critical difference: mean ranks further apart differ.
        cases: how many cases.
    """

    ranks: FloatArray
    p_value: float
    difference: float
    cases: int


def critical_difference(methods: int, cases: int, level: float = 0.95) -> float:
    """Return Nemenyi's critical difference of mean ranks, for all pairs of methods at once.

    CD = q √(k(k + 1)/(6N)) with q the quantile of the studentized range of k groups with infinitely
    many degrees of freedom, divided by √2: 1.960 for 2 methods, 2.343 for 3, 3.164 for 10 at 5 %
    (Demšar, JMLR 7:1, 2006, section 3.2.2 and table 5).

    Args:
        methods: k, at least 2.
        cases: N, at least 1.
        level: 1 − the error of all decisions together.

    Returns:
        The difference.

    Raises:
        OptionError: if there are too few methods or cases.
    """
    check_level(level)
    if methods < 2 or cases < 1:
        raise OptionError(f"{methods} method(s) on {cases} case(s): nothing to rank")
    q = float(stats.studentized_range.ppf(level, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * cases))


def friedman(values: npt.ArrayLike, level: float = 0.95) -> Ranking:
    """Rank methods within each case, and test whether their mean ranks differ.

    Friedman (J. Amer. Statist. Assoc. 32:675, 1937), with mid-ranks for ties.

    Args:
        values: [N, k], a row a case, a column a method; low is good.
        level: of the critical difference.

    Returns:
        The ranking.

    Raises:
        DataError: if the table is empty or a value is not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise DataError(f"a row a case and a column a method are needed, not shape {table.shape}")
    if not np.isfinite(table).all():
        raise DataError("a value is not finite")
    cases, methods = table.shape
    ranked = stats.rankdata(table, axis=1)
    p_value = math.nan
    if methods > 2 and cases > 1:
        tied = bool((ranked == ranked[:, :1]).all())
        p_value = 1.0 if tied else float(stats.friedmanchisquare(*table.T).pvalue)
    difference = critical_difference(methods, cases, level)
    return Ranking(ranked.mean(axis=0), p_value, difference, cases)
