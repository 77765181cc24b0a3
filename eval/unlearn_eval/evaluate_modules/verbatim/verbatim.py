"""Verbatim reproduction by generated texts, as an `evaluate` module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from unlearn_eval.statistics import proportion_interval

_INPUTS = """
Args:
    predictions: generated texts.
    references: true texts, one each; white space at either end does not count.
Returns:
    verbatim_rate: share of predictions that are the reference, character by character;
    verbatim_rate_low, verbatim_rate_high: exact 95 % limits for independent texts.
"""


class Verbatim(evaluate.Metric):  # type: ignore[misc]
    """Share of texts that a model reproduces exactly (arXiv 2202.07646)."""

    def _info(self) -> Any:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Carlini et al., Quantifying Memorization, arXiv 2202.07646",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        same = [p.strip() == r.strip() for p, r in zip(predictions, references, strict=True)]
        found = proportion_interval(np.array(same))
        return {
            "verbatim_rate": found.value,
            "verbatim_rate_low": found.low,
            "verbatim_rate_high": found.high,
        }
