from __future__ import annotations

from unlearn_eval import statistics


def test_public_names():
    assert set(statistics.__all__) == {
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
    }


def test_interval_fields():
    assert statistics.Interval._fields == (
        *("value", "low", "high", "n", "level", "method", "clusters", "note"),
    )
