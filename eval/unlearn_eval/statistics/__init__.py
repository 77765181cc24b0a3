"""Intervals and tests: pure functions of arrays, in float64.

An interval says how it was made in `method`:

| method | meaning |
|---|---|
| `delong` | AUC, or difference of two; records are independent |
| `matched` | share of matched pairs, Wilson; pairs are independent |
| `t` | mean; records are independent |
| `exact` | proportion, Clopper–Pearson; records are independent |
| `records` | change under a treatment, or R of two changes; errors of records, seeds and references |
| `seeds` | mean over runs with different seeds; says nothing of other records |
| `cluster` | the same with clusters (subjects) as the independent unit, at least 10 of them a side |
| `conditional` | record-level although records come in clusters too few or too lopsided to use; valid only for further records of these same subjects, never for a verdict |
| `guesses` | lower bound of ε from guesses about canaries; there is no upper limit |
| `none` | no interval: `low` and `high` are NaN and `note` says why |
"""  # noqa: E501  a table row is one line

from __future__ import annotations

from unlearn_eval.statistics.auc import auc, auc_interval, auc_tost
from unlearn_eval.statistics.common import MIN_CLUSTERS, Clusters, Interval
from unlearn_eval.statistics.epsilon import (
    EpsilonBound,
    epsilon_bound,
    guesses_p_value,
    right_guesses,
)
from unlearn_eval.statistics.hypotheses import (
    KsTest,
    PredictionLimits,
    holm,
    holm_intervals,
    ks_exact,
    prediction_limits,
)
from unlearn_eval.statistics.max_t import MaxT
from unlearn_eval.statistics.means import Equivalence, mean_interval, paired_difference
from unlearn_eval.statistics.moderated import VariancePrior, moderated, variance_prior
from unlearn_eval.statistics.ranks import Ranking, critical_difference, friedman
from unlearn_eval.statistics.rates import proportion_interval, tpr_at_fpr
from unlearn_eval.statistics.sign_flip import SignFlip, sign_flip_test
from unlearn_eval.statistics.sizes import nonmembers_needed, records_for_equivalence, records_needed
from unlearn_eval.statistics.twins import MIN_TWINS, RankTest, subject_rank_test, twin_theta

__all__ = [
    "MIN_CLUSTERS",
    "MIN_TWINS",
    "Clusters",
    "EpsilonBound",
    "Equivalence",
    "Interval",
    "KsTest",
    "MaxT",
    "PredictionLimits",
    "RankTest",
    "Ranking",
    "SignFlip",
    "VariancePrior",
    "auc",
    "auc_interval",
    "auc_tost",
    "critical_difference",
    "epsilon_bound",
    "friedman",
    "guesses_p_value",
    "holm",
    "holm_intervals",
    "ks_exact",
    "mean_interval",
    "moderated",
    "nonmembers_needed",
    "paired_difference",
    "prediction_limits",
    "proportion_interval",
    "records_for_equivalence",
    "records_needed",
    "right_guesses",
    "sign_flip_test",
    "subject_rank_test",
    "tpr_at_fpr",
    "twin_theta",
    "variance_prior",
]
