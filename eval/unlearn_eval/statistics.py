"""Intervals and tests: pure functions of arrays, in float64.

An interval says how it was made in `method`:

| method | meaning |
|---|---|
| `delong` | AUC; records are independent |
| `t` | mean; records are independent |
| `exact` | proportion, Clopper–Pearson; records are independent |
| `cluster` | the same with clusters (subjects) as the independent unit, at least 10 of them a side |
| `conditional` | record-level although records come in clusters too few or too lopsided to use; valid only for further records of these same subjects, never for a verdict |
| `none` | no interval: `low` and `high` are NaN and `note` says why |
"""  # noqa: E501  a table row is one line

from __future__ import annotations

from unlearn_eval._statistics.auc import auc, auc_interval
from unlearn_eval._statistics.common import MIN_CLUSTERS, Clusters, Interval
from unlearn_eval._statistics.hypotheses import (
    KsTest,
    PredictionLimits,
    benjamini_hochberg,
    holm,
    ks_exact,
    prediction_limits,
)
from unlearn_eval._statistics.means import (
    Equivalence,
    mean_interval,
    paired_difference,
    tost,
)
from unlearn_eval._statistics.rates import nonmembers_needed, proportion_interval, tpr_at_fpr

__all__ = [
    "MIN_CLUSTERS",
    "Clusters",
    "Equivalence",
    "Interval",
    "KsTest",
    "PredictionLimits",
    "auc",
    "auc_interval",
    "benjamini_hochberg",
    "holm",
    "ks_exact",
    "mean_interval",
    "nonmembers_needed",
    "paired_difference",
    "prediction_limits",
    "proportion_interval",
    "tost",
    "tpr_at_fpr",
]
