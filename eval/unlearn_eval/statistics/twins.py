"""Comparisons with never-trained twins: matched records, or one subject against others."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError, OptionError
from unlearn_eval.statistics.clusters import mean_variance
from unlearn_eval.statistics.common import (
    Clusters,
    Interval,
    as_values,
    check_level,
    group,
    no_interval,
)
from unlearn_eval.statistics.rates import clopper_pearson, wilson

__all__ = ["MIN_TWINS", "RankTest", "subject_rank_test", "twin_theta"]

MIN_TWINS = 19
"""Fewest twin subjects for a rank test: below, the smallest p-value is above 5 %."""

Alternative = Literal["two-sided", "greater", "less"]


class RankTest(NamedTuple):
    """Outcome of a rank test of one subject among twins.

    Attributes:
        rank: how many of all subjects, itself included, are at least as extreme.
        subjects: the twins and itself.
        p_value: rank/subjects, exact; NaN where there are too few twins.
        note: why it was refused, else empty.
    """

    rank: int
    subjects: int
    p_value: float
    note: str = ""


def twin_theta(
    forget: npt.ArrayLike,
    twins: npt.ArrayLike,
    level: float = 0.95,
    clusters: Clusters | None = None,
) -> Interval:
    """Return θ = P(score of a forgotten record > score of its twin) + ½ P(equal).

    u_i is the share of record i's own twins that score below it, ties ½, and θ the mean of u_i.
    Each record with its twins is one observation, so nothing is assumed of how a record and its
    twins vary together. Limits are Wilson's with a t quantile at the sample size n* = θ(1 −
    θ)/v̂, at most n·k for k twins a record; at θ = 0 or 1 Clopper and Pearson's for n. Where
    every twin may stand for every record, `auc_interval` compares all with all and needs fewer.

    Args:
        forget: [n], scores; larger = more likely a member.
        twins: [n, k] or [n], scores of each record's own twins in the same model.
        level: confidence level, two-sided.
        clusters: one label a record, such as its subject; its twins go with it.

    Returns:
        Method "matched", "cluster" or "conditional"; "none" for one record.

    Raises:
        DataError: if shapes do not fit, there are no records or twins, a score is NaN, or labels
            do not fit.
        OptionError: if the level is not in (0, 1).
    """
    check_level(level)
    scores = as_values(forget, "forget")
    others = np.asarray(twins, dtype=np.float64)
    others = others[:, None] if others.ndim == 1 else others
    if others.ndim != 2 or len(others) != len(scores) or not others.shape[1]:
        raise DataError(
            f"twins of shape {np.shape(twins)} for {len(scores)} records; give [records, twins]"
        )
    if np.isnan(others).any():
        raise DataError(f"twins of record {int(np.argwhere(np.isnan(others))[0, 0])} hold NaN")
    n, k = others.shape
    wins = np.where(scores[:, None] == others, 0.5, scores[:, None] > others).mean(axis=1)
    theta = float(wins.mean())
    grouping = group((n, clusters))
    method = grouping.method("matched")
    unit = grouping if method == "cluster" else grouping.by_record()
    if theta in (0.0, 1.0):
        size = unit.effective[0]
        low, high = clopper_pearson(theta * size, size, level)
    elif n < 2:
        note = "one record does not show how much records vary"
        return no_interval(theta, n, level, grouping.clusters, note)
    else:
        error = mean_variance(wins, unit)
        low, high = wilson(theta, n * k, error.value, error.freedom, level)
    return Interval(theta, low, high, n, level, method, grouping.clusters, grouping.note)


def subject_rank_test(
    subject: float, twins: npt.ArrayLike, alternative: Alternative = "two-sided"
) -> RankTest:
    """Test whether one subject stands out among subjects that were never trained on.

    p = (number of subjects, itself included, at least as extreme)/(number of subjects): exact if
    the subject is exchangeable with its twins, which the base model must show first. Extreme is
    large, small, or ("two-sided") far from the median of all subjects. However many records a
    subject has, it is one observation here.

    Args:
        subject: one statistic of the subject, such as the mean score of its records.
        twins: the same statistic of each twin subject, in the same model.
        alternative: in which direction traces of training would lie.

    Returns:
        The outcome; p is NaN with fewer than `MIN_TWINS` twins.

    Raises:
        DataError: if there are no twins, or a value is NaN or infinite.
        OptionError: if the alternative is unknown.
    """
    values = np.concatenate(([subject], as_values(twins, "twins")))
    if not np.isfinite(values).all():
        raise DataError("subject and twins need finite statistics; use a score without infinities")
    if alternative == "two-sided":
        values = np.abs(values - np.median(values))
    elif alternative == "less":
        values = -values
    elif alternative != "greater":
        raise OptionError(f"alternative {alternative!r} is not 'two-sided', 'greater' or 'less'")
    # rounding of a mean must not break a tie
    slack = 1e-12 * float(np.abs(values).max())
    rank, total = int(np.sum(values >= values[0] - slack)), len(values)
    if total <= MIN_TWINS:
        note = f"{total - 1} twin subjects cannot show a difference at 5 %; {MIN_TWINS} would"
        return RankTest(rank, total, math.nan, note)
    return RankTest(rank, total, rank / total)
