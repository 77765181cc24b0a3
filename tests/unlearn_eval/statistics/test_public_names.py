from __future__ import annotations

from unlearn_eval import statistics


def test_public_names():
    assert set(statistics.__all__) == {
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
    }


def test_interval_fields():
    assert statistics.Interval._fields == (
        *("value", "low", "high", "n", "level", "method", "clusters", "note"),
    )
