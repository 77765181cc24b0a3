"""Intervals keep to what a metric can be."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from unlearn_eval.report.audit.summary import estimate
from unlearn_eval.results.audit_result import row_of, value_range
from unlearn_eval.statistics import Interval


@pytest.mark.parametrize(
    ("probe", "metric", "limits"),
    [
        ("extraction.verbatim", "rate", (0.0, 1.0)),
        ("extraction.strength", "mean", (0.0, 1.0)),
        ("extraction.exposure", "mean", (0.0, 3.5)),
        ("membership.loss", "auc", (0.0, 1.0)),
        ("utility.loss", "mean", (0.0, 3.5)),
        ("utility.rouge", "recall", (0.0, 1.0)),
        ("robustness.relearn", "R[extraction.verbatim]", (0.0, 1.0)),
        ("robustness.relearn", "excess[extraction.verbatim]", (-0.5, 1.0)),
        ("robustness.relearn", "excess[utility.loss]", (-0.5, 3.5)),
        ("something.else", "mean", (-0.5, 3.5)),
    ],
)
def test_limits_are_those_of_the_metric(
    probe: str, metric: str, limits: tuple[float, float]
) -> None:
    interval = Interval(0.5, -0.5, 3.5, 8, 0.95, "t", None, "")
    row = row_of("after", "forget", probe, metric, interval)
    assert row.limits == limits
    assert estimate(row) == f"0.50 [{limits[0]:.2f}, {limits[1]:.2f}]"
    assert replace(row, low=None).limits is None
    assert value_range(probe, metric)[0] in (-math.inf, -1.0, 0.0)
