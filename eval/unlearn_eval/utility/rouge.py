"""ROUGE-L: how much of the true ending is in what the model writes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unlearn_eval.arrays import FloatArray

__all__ = ["RougeScores", "score"]


class RougeScores(NamedTuple):
    """ROUGE-L of each record, float64[R] in [0, 1].

    Attributes:
        recall: longest common subsequence ÷ words of the truth; what TOFU reports.
        f1: harmonic mean of that and precision; what MUSE reports.
    """

    recall: FloatArray
    f1: FloatArray


def score(written: Sequence[str], truth: Sequence[str], *, stem: bool = True) -> RougeScores:
    """Compare texts by their longest common subsequence of words.

    Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (ACL W04-1013, section 3), as
    the package `rouge-score` computes it. The published values of TOFU (arXiv 2401.06121) and MUSE
    (arXiv 2407.06460) are of stemmed words. Limits: 0 where either text has no word.

    Args:
        written: what the model wrote.
        truth: what the records say, in the same order.
        stem: compare words by their Porter stems.

    Returns:
        Recall and F1 of each pair.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=stem)
    pairs = [scorer.score(t, w)["rougeL"] for w, t in zip(written, truth, strict=True)]
    return RougeScores(
        np.array([p.recall for p in pairs], dtype=np.float64),
        np.array([p.fmeasure for p in pairs], dtype=np.float64),
    )
