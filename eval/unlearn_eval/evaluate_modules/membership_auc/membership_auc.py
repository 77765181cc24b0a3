"""AUC of a membership attack, as an `evaluate` module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from unlearn.errors import DataError
from unlearn_eval.statistics import auc_interval

_INPUTS = """
Args:
    predictions: a score of each record, larger = more likely a member.
    references: 1 for members, 0 for non-members.
    level: confidence level of the limits (default 0.95).
Returns:
    membership_auc: probability that a member scores above a non-member, ties counting half;
    membership_auc_low, membership_auc_high: DeLong limits for independent records (NaN if a side
        has a single record).
"""


class MembershipAuc(evaluate.Metric):  # type: ignore[misc]
    """AUC of a membership inference attack from scores and labels, with limits."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="DeLong et al., Biometrics 44:837, 1988",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self, predictions: Sequence[float], references: Sequence[int], level: float = 0.95
    ) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references)
        if not np.isin(labels, (0, 1)).all():
            raise DataError("references must be 1 for members and 0 for non-members")
        found = auc_interval(scores[labels == 1], scores[labels == 0], level)
        return {
            "membership_auc": found.value,
            "membership_auc_low": found.low,
            "membership_auc_high": found.high,
        }
