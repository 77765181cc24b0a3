"""What all intervals share: their form, checks of the input, and clusters of records."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import FloatArray, IntArray

__all__ = [
    "MIN_CLUSTERS",
    "Clusters",
    "Grouping",
    "Interval",
    "as_values",
    "check_level",
    "group",
    "no_interval",
    "t_quantile",
]

MIN_CLUSTERS = 10
"""Fewest clusters a side for a cluster interval: below, nominal 95 % covers far less."""

Clusters: TypeAlias = Sequence[Hashable] | npt.NDArray[Any]
"""One label a record; records with equal labels belong together, and None is a cluster of its own.

Labels mean the same on both sides of a comparison.
"""


class Interval(NamedTuple):
    """An estimate with a confidence interval.

    Attributes:
        value: the estimate; NaN where it was refused, with the reason in `note`.
        low: lower limit, NaN if there is none.
        high: upper limit, NaN if there is none.
        n: records it rests on; of an AUC or TPR, the members.
        level: confidence level, two-sided.
        method: how the limits were made; `unlearn_eval.statistics` lists the names.
        clusters: different clusters among all records used, None if records are independent.
        note: what a reader must know besides, else empty.
    """

    value: float
    low: float
    high: float
    n: int
    level: float
    method: str
    clusters: int | None = None
    note: str = ""


class Grouping(NamedTuple):
    """Which records belong together, on each side of a statistic.

    Attributes:
        codes: one int64 array a side; equal codes mean the same cluster, on all sides.
        clusters: how many clusters there are in all; None if none were given.
        effective: a side's effective number of clusters, 1/Σ w_g² for shares w_g of the records.
        shared: whether some cluster has records on more than one side.
        note: why clusters cannot carry an interval; empty if they can or need not.
    """

    codes: tuple[IntArray, ...]
    clusters: int | None
    effective: tuple[float, ...]
    shared: bool
    note: str

    def method(self, independent: str) -> str:
        """Name the interval's method, given the name for independent records."""
        if self.note:
            return "conditional"
        return "cluster" if self.clustered else independent

    @property
    def clustered(self) -> bool:
        """Whether some cluster holds two records."""
        return self.clusters is not None and self.clusters < sum(map(len, self.codes))

    def by_record(self) -> Grouping:
        """Return the same records, each on its own."""
        return group(*((len(codes), None) for codes in self.codes))


def group(*sides: tuple[int, Clusters | None]) -> Grouping:
    """Number the clusters of all sides alike and judge whether they can carry an interval.

    They can if every side has `MIN_CLUSTERS` and an effective number of 2 or more: otherwise one
    cluster holds nearly all records and nothing tells how much clusters vary.

    Args:
        *sides: for each side its number of records, and their cluster labels or None.

    Returns:
        The grouping; its `note` is empty if cluster intervals are possible or not needed.

    Raises:
        DataError: if there is not one label a record.
    """
    known: dict[Hashable, int] = {}
    fresh = 0
    codes = []
    for records, labels in sides:
        labels = [None] * records if labels is None else list(labels)
        if len(labels) != records:
            raise DataError(f"{len(labels)} cluster labels for {records} records; give one each")
        side = np.empty(records, dtype=np.int64)
        for position, label in enumerate(labels):
            if label is None:
                fresh -= 1
                side[position] = fresh
            else:
                side[position] = known.setdefault(label, len(known))
        # None counts down from -1, labels up from 0; shifted into one range without gaps below
        codes.append(side)
    codes = [np.where(side < 0, len(known) - 1 - side, side) for side in codes]
    present = [np.unique(side) for side in codes]
    total = len(np.unique(np.concatenate(present)))
    effective = tuple(_effective(side) for side in codes)
    given = any(labels is not None for _, labels in sides)
    note = ""
    if given and total < sum(map(len, codes)):
        fewest = min(map(len, present))
        if fewest < MIN_CLUSTERS:
            note = (
                f"only {fewest} {'cluster' if fewest == 1 else 'clusters'} on a side, and "
                f"{MIN_CLUSTERS} are needed to tell how much clusters vary"
            )
        elif min(effective) < 2:
            note = "one cluster holds nearly all records of a side"
        if note:
            note += ": this interval treats records as independent"
    return Grouping(
        codes=tuple(codes),
        clusters=total if given else None,
        effective=effective,
        shared=total < sum(map(len, present)),
        note=note,
    )


def _effective(codes: IntArray) -> float:
    """Return 1/Σ w_g²: the number of clusters, less where their sizes differ."""
    shares = np.unique(codes, return_counts=True)[1] / max(len(codes), 1)
    return float(1 / np.sum(shares**2)) if len(codes) else 0.0


def as_values(values: npt.ArrayLike, what: str) -> FloatArray:
    """Return one value a record as float64[n].

    Args:
        values: the numbers; ±inf is allowed.
        what: what they are, for messages.

    Returns:
        A flat array with at least one element.

    Raises:
        DataError: if there are none, they are not flat, or one is NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise DataError(f"{what}: one value a record is needed, not shape {array.shape}")
    if np.isnan(array).any():
        raise DataError(f"{what}: value {int(np.argmax(np.isnan(array)))} (from 0) is NaN")
    return array


def check_level(level: float) -> None:
    """Refuse a confidence level outside (0, 1).

    Args:
        level: as a fraction, not in per cent.

    Raises:
        OptionError: naming the level.
    """
    if not 0 < level < 1:
        raise OptionError(f"confidence level {level} is not between 0 and 1; 0.95 is usual")


def t_quantile(level: float, freedom: float) -> float:
    """Return the two-sided critical value of Student's t: t_{1 − (1 − level)/2, freedom}."""
    return float(stats.t.isf((1 - level) / 2, freedom))


def no_interval(value: float, n: int, level: float, clusters: int | None, note: str) -> Interval:
    """Return an estimate without limits, and why."""
    return Interval(value, math.nan, math.nan, n, level, "none", clusters, note)
