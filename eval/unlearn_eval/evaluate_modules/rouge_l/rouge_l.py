"""ROUGE-L of generated texts, as an `evaluate` module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from unlearn.errors import DataError
from unlearn_eval.utility import rouge

_INPUTS = """
Args:
    predictions: generated texts.
    references: true texts, one each.
    stem: compare words by their Porter stems (default True).
Returns:
    rouge_l_recall, rouge_l_f1: means over the texts, in [0, 1].
"""


class RougeL(evaluate.Metric):  # type: ignore[misc]
    """Mean ROUGE-L recall (as TOFU reports it) and F1 (as MUSE does), of stemmed words."""

    def _info(self) -> Any:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Lin, ROUGE: A Package for Automatic Evaluation of Summaries, ACL W04-1013",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], stem: bool = True
    ) -> dict[str, float]:
        if not predictions:
            raise DataError("no predictions to compare")
        found = rouge.score(predictions, references, stem=stem)
        return {
            "rouge_l_recall": float(found.recall.mean()),
            "rouge_l_f1": float(found.f1.mean()),
        }
