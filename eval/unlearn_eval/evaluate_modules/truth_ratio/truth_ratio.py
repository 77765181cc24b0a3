"""TOFU's truth ratio from average losses, as an `evaluate` module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from unlearn_eval.utility import truth_ratio
from unlearn_eval.utility.truth_ratio import Mean

_INPUTS = """
Args:
    predictions: for each question the average losses (nats a token) of its false answers.
    references: the average loss of the paraphrased true answer.
    mean: "geometric" (default; as in published logs) or "arithmetic" (as in the paper's text).
Returns:
    truth_ratio_forget: mean of min(R, 1/R), for forgotten questions: 1 if truth and falsehood are
        not told apart;
    truth_ratio_utility: mean of max(0, 1 - R), for kept ones: 1 if only the truth is likely.
"""


class TruthRatio(evaluate.Metric):  # type: ignore[misc]
    """How likely false answers are beside the true one (arXiv 2401.06121)."""

    def _info(self) -> Any:
        loss = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Maini et al., TOFU: A Task of Fictitious Unlearning for LLMs, "
            "arXiv 2401.06121",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Sequence(loss), "references": loss}
            ),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[float],
        mean: Mean = "geometric",
    ) -> dict[str, float]:
        ratio = truth_ratio.truth_ratio(references, predictions, mean)
        return {
            "truth_ratio_forget": float(truth_ratio.forget_score(ratio).mean()),
            "truth_ratio_utility": float(truth_ratio.utility_score(ratio).mean()),
        }
