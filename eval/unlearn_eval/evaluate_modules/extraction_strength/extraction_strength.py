"""Extraction strength from predicted tokens, as an `evaluate` module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from unlearn.errors import DataError
from unlearn_eval.extraction import strength

_INPUTS = """
Args:
    predictions: for each record the likeliest token at every target position, given the true
        tokens before it (teacher forcing; text generated freely does not tell the strength).
    references: the true tokens, as many.
Returns:
    extraction_strength: mean of 1 - k*/|y|, k* the earliest position from which all predictions
        are right; in [0, 1].
"""


class ExtractionStrength(evaluate.Metric):  # type: ignore[misc]
    """Share of a record that greedy decoding completes by itself (arXiv 2406.09179)."""

    def _info(self) -> Any:
        tokens = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Wang et al., Towards Effective Evaluations and Comparisons for LLM "
            "Unlearning Methods, arXiv 2406.09179",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": tokens, "references": tokens}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]
    ) -> dict[str, float]:
        if not predictions:
            raise DataError("no predictions to compare")
        for i, (said, true) in enumerate(zip(predictions, references, strict=True)):
            if len(said) != len(true) or not len(true):
                raise DataError(
                    f"record {i}: {len(said)} predicted tokens for {len(true)} true ones; give one "
                    "for each, and at least one"
                )
        hit = np.concatenate([np.equal(p, r) for p, r in zip(predictions, references, strict=True)])
        offsets = np.cumsum([0, *(len(true) for true in references)])
        return {"extraction_strength": float(strength.completed(hit, offsets).mean())}
