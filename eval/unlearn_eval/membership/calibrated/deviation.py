"""Deviation: a record that was unlearned may lie above or below where unseen ones lie."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership.calibrated.spread import reference_scores

__all__ = ["PAPER", "SUMMARY", "among", "score"]

PAPER = "https://arxiv.org/abs/2403.01218"
SUMMARY = "distance from the median of references or of unseen records, in either direction"


def score(target: npt.ArrayLike, comparators: npt.ArrayLike) -> FloatArray:
    """Return |s − median of the comparators| of every record.

    A model that leaves half of the forgotten records likelier than unseen ones and pushes half
    below them has an AUC of ½ by likelihood; by its deviation each is told apart. Over- and
    under-forgetting as one trace is the concern of arXiv 2403.01218; the score is this project's.

    Args:
        target: [R], a score such as the mean log-probability; ±inf is allowed.
        comparators: [K, R], the same score of each record in K references that never saw it, or of
            K twins of each record in the audited model.

    Returns:
        float64[R] ≥ 0; larger = more likely a member.

    Raises:
        DataError: if shapes do not fit, a score is NaN, or a comparator is infinite.
    """
    x, others, _ = reference_scores("deviation", target, comparators)
    distances: FloatArray = np.abs(x - np.median(others, axis=0))
    return distances


def among(values: npt.ArrayLike) -> FloatArray:
    """Return |s_i − median of all others| for unseen records, which are their own comparators.

    Args:
        values: [N], scores of the unseen records in one model.

    Returns:
        float64[N] ≥ 0.

    Raises:
        DataError: if there are fewer than two, or one is NaN or infinite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise DataError("attack 'deviation' needs two or more finite scores of unseen records")
    order = np.argsort(x, kind="stable")
    ranked, place = x[order], np.argsort(order, kind="stable")
    # without the one at `place`, the median lies at ranks counted around it
    lower, upper = (len(x) - 2) // 2, (len(x) - 1) // 2
    low, high = (ranked[k + (place <= k)] for k in (lower, upper))
    distances: FloatArray = np.abs(x - (low + high) / 2)
    return distances
