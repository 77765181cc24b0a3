"""A probe in all forms of a model: where the audited model lies among references, and p."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.statistics import MaxT, VariancePrior, variance_prior
from unlearn_eval.verdict.evidence import Evidence, View, reason
from unlearn_eval.verdict.policy import BACKDOOR_BEST, DEVIATION, WORST
from unlearn_eval.verdict.tiers.model_statistics import Probe, model_statistic
from unlearn_eval.verdict.tiers.position import ReferencePosition, position_among
from unlearn_eval.verdict.tiers.unseen_groups import Group

__all__ = ["ABOVE", "Family", "Place", "placed"]

ABOVE = {DEVIATION, WORST, BACKDOOR_BEST}
"""Probes of which only values above the references' tell that the records were seen."""


@dataclass(frozen=True)
class Place:
    """Where the audited model lies by one probe in one form.

    Attributes:
        position: among the references.
        residuals: of the references' statistics, also those of unseen people, about their means.
        agreeing: probability that independent references vary as little beside unseen people's
            statistics in them; None without such.
    """

    position: ReferencePosition
    residuals: FloatArray
    agreeing: float | None = None


class Family(NamedTuple):
    """One probe in all forms of the model: one test.

    Attributes:
        probe: its name.
        views: the forms.
        places: in each form, or why there is none.
    """

    probe: str
    views: Sequence[View]
    places: Sequence[Place | str]

    @property
    def largest(self) -> MaxT:
        """The distribution of the largest t over the forms."""
        known = [place for place in self.places if isinstance(place, Place)]
        rows = np.stack([place.residuals for place in known])
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation = np.atleast_2d(np.corrcoef(rows))
        np.fill_diagonal(correlation, 1.0)
        return MaxT(correlation, min(place.position.freedom for place in known))

    def p_value(self, i: int, largest: MaxT) -> float:
        """Return p of one form, allowing for the others."""
        place = self.places[i]
        if isinstance(place, str):
            return 1.0
        where = place.position
        below = self.probe in ABOVE and where.value < where.mean
        if below or math.isnan(where.distance) or where.sd == 0:
            return 1.0
        return largest.p_value(where.distance / math.sqrt(1 + 1 / where.k))

    @property
    def p_values(self) -> list[float]:
        """P of each form; 1 where there is no statistic: it must not make others easier to fail."""
        if all(isinstance(place, str) for place in self.places):
            return [1.0] * len(self.places)
        largest = self.largest
        return [self.p_value(i, largest) for i in range(len(self.places))]


def placed(
    evidence: Evidence,
    view: View,
    probe: str,
    floor: float,
    groups: Sequence[Group],
    judged: str = "after",
) -> Place | str:
    """Return the place of a model by one probe in one form, or why there is none.

    Args:
        evidence: with references.
        view: the form.
        probe: the probe.
        floor: least difference that matters, in AUC.
        groups: unseen people of like size.
        judged: the state in question.

    Returns:
        The place; words without one.
    """
    try:
        scores, level = evidence.scores(view), not evidence.part_trained
        ready = model_statistic(
            probe, scores, judged, evidence.references, floor=floor, level=level
        )
    except DataError as error:
        return reason(error)
    values = ready.statistic(ready.forget, ready.holdout)
    others, prior = _unseen(ready, groups, len(values) - 2)
    known = np.isfinite(values[1:]).all()
    least = ready.floor(ready.forget, values[1:]) if known else 0.0
    position = position_among(float(values[0]), values[1:], prior, least)
    if math.isnan(position.mean):
        return "a score is infinite" if not np.isfinite(values).all() else "it has no spread"
    rows = np.vstack([values[1:][None], others])
    residuals = (rows - rows.mean(axis=1, keepdims=True)).ravel()
    if prior is None or not prior.variance:
        return Place(position, residuals)
    ratio = float(np.var(values[1:], ddof=1)) / prior.variance
    return Place(position, residuals, float(stats.f.cdf(ratio, position.k - 1, prior.freedom)))


def _unseen(
    ready: Probe, groups: Sequence[Group], freedom: int
) -> tuple[FloatArray, VariancePrior | None]:
    """Return the references' statistics of unseen people, float64[G, k], and how these vary."""
    empty: FloatArray = np.empty((0, freedom + 1))
    if not groups:
        return empty, None
    first = ready.records
    values: FloatArray = np.array(
        [ready.statistic(first + each.records, first + each.rest)[1:] for each in groups]
    )
    if not np.isfinite(values).all():
        return empty, None
    return values, variance_prior(np.var(values, axis=1, ddof=1), freedom)
