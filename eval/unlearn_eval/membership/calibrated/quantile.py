"""Quantile regression: is a record likelier than almost all unseen records of its kind?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import FloatArray, IntArray

__all__ = ["ALPHA", "FOLDS", "PAPER", "SUMMARY", "Residuals", "compare", "fit", "needed"]

PAPER = "https://arxiv.org/abs/2307.03694"
SUMMARY = "mean log-probability above the 90 % quantile predicted for unseen records like it"

ALPHA = 0.1
"""False-positive rate whose quantile is predicted.

The paper takes the rate of interest, and has images by the ten thousand; this one is within reach
of a holdout of some dozens.
"""
FOLDS = 5


class Residuals(NamedTuple):
    """Scores above their predicted quantile; larger = more likely a member.

    Attributes:
        member: float64[R].
        nonmember: float64[N], each by a regressor that was not fitted on its group.
    """

    member: FloatArray
    nonmember: FloatArray


def needed(features: int, alpha: float = ALPHA, folds: int = FOLDS) -> int:
    """Return how many unseen records would do: 1/α for each coefficient, in every fit.

    Args:
        features: how many, beside the constant.
        alpha: false-positive rate.
        folds: of the cross-fitting.

    Returns:
        A number of records.
    """
    each = (features + 1) / min(alpha, 1 - alpha)
    return math.ceil(each * folds / (folds - 1) * (1 - 1e-12))


def compare(
    member: npt.ArrayLike,
    member_features: npt.ArrayLike,
    nonmember: npt.ArrayLike,
    nonmember_features: npt.ArrayLike,
    groups: Sequence[Hashable],
    *,
    alpha: float = ALPHA,
    folds: int = FOLDS,
) -> Residuals:
    """Return s(x) − q(x), with q(x) the (1 − α) quantile of unseen records' scores given features.

    q is linear in the features and minimises the pinball loss on non-members: Bertran et al.,
    "Scalable Membership Inference Attacks via Quantile Regression" (arXiv 2307.03694), with
    a line in place of their networks because a score matrix has few records. It is cross-fitted:
    non-members are split into folds, a non-member is predicted by the fit on the other folds, and
    a member by the mean of all fits, so that neither is compared with itself. Folds are dealt in
    the order of the group labels' digests, whatever order the records are in.

    Args:
        member: [R], scores s such as the mean log-probability.
        member_features: [R, F], what predicts them for unseen records: the base's score, length …
        nonmember: [N], scores of unseen records in the same model.
        nonmember_features: [N, F].
        groups: N labels; records with the same label, such as a subject, are in one fold.
        alpha: false-positive rate, in (0, 1).
        folds: how many, at least 2.

    Returns:
        Both sides' residuals.

    Raises:
        DataError: if shapes do not fit, a value is NaN or infinite, or there are too few
            non-members or groups.
        OptionError: if alpha or folds is out of range.
    """
    if not 0 < alpha < 1 or folds < 2:
        raise OptionError(f"alpha {alpha} and {folds} folds: a rate in (0, 1) and 2 folds at least")
    x, x_features = _checked(member, member_features, "members")
    y, y_features = _checked(nonmember, nonmember_features, "unseen records")
    if x_features.shape[1] != y_features.shape[1] or len(groups) != len(y):
        raise DataError(
            f"attack 'quantile': {x_features.shape[1]} features of members, "
            f"{y_features.shape[1]} and {len(groups)} groups of {len(y)} unseen records"
        )
    enough = needed(y_features.shape[1], alpha, folds)
    if len(y) < enough:
        raise DataError(
            f"{len(y)} unseen records are too few to predict their {1 - alpha:.0%} quantile; "
            f"{enough} would do"
        )
    fold = _deal(groups, folds)
    below = np.empty(len(y))
    above = np.zeros(len(x))
    for number in range(folds):
        out = fold == number
        line = fit(y[~out], y_features[~out], 1 - alpha)
        below[out] = y[out] - _predict(line, y_features[out])
        above += (x - _predict(line, x_features)) / folds
    return Residuals(above, below)


def fit(values: FloatArray, features: FloatArray, level: float) -> FloatArray:
    """Return the coefficients β that minimise Σ ρ(y − β_0 − β·x), ρ(u) = u (level − [u < 0]).

    Solved exactly, as the dual linear program max y·d subject to Xᵀd = (1 − level) Xᵀ1, 0 ≤ d ≤ 1
    (Koenker and Bassett, Econometrica 46:33, 1978), whose multipliers are β.

    Args:
        values: float64[N], y.
        features: float64[N, F].
        level: which quantile, in (0, 1).

    Returns:
        float64[F + 1], the constant first.

    Raises:
        DataError: if the program cannot be solved.
    """
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = np.column_stack((np.ones(len(values)), (features - centre) / scale))
    result = linprog(
        -values,
        A_eq=design.T,
        b_eq=(1 - level) * design.sum(axis=0),
        bounds=(0, 1),
        method="highs",
    )
    if result.status != 0:
        raise DataError(f"attack 'quantile': no line fits the unseen records: {result.message}")
    beta = -np.asarray(result.eqlin.marginals, dtype=np.float64)
    slopes = beta[1:] / scale
    return np.concatenate(([beta[0] - slopes @ centre], slopes))


def _predict(line: FloatArray, features: FloatArray) -> FloatArray:
    """Return the predicted quantiles."""
    quantiles: FloatArray = line[0] + features @ line[1:]
    return quantiles


def _deal(groups: Sequence[Hashable], folds: int) -> IntArray:
    """Deal groups to folds; the same labels give the same folds in any order."""
    labels = sorted(
        {str(label) for label in groups}, key=lambda s: hashlib.sha256(s.encode()).digest()
    )
    if len(labels) < folds:
        raise DataError(
            f"attack 'quantile': unseen records of {len(labels)} subjects cannot be split into "
            f"{folds} folds"
        )
    place = {label: position % folds for position, label in enumerate(labels)}
    return np.array([place[str(label)] for label in groups], dtype=np.int64)


def _checked(
    values: npt.ArrayLike, features: npt.ArrayLike, what: str
) -> tuple[FloatArray, FloatArray]:
    """Return one side's arrays, refusing what does not fit."""
    x, columns = np.asarray(values, dtype=np.float64), np.asarray(features, dtype=np.float64)
    if x.ndim != 1 or columns.ndim != 2 or len(columns) != len(x) or not len(x):
        raise DataError(
            f"attack 'quantile', {what}: scores [records] and features [records, features] are "
            f"needed, not shapes {x.shape} and {columns.shape}"
        )
    wrong = ~(np.isfinite(x) & np.isfinite(columns).all(axis=1))
    if wrong.any():
        raise DataError(
            f"attack 'quantile', {what}: record {int(np.argmax(wrong))} (from 0) has a score or "
            "feature that is NaN or infinite; leave it out"
        )
    return x, columns
