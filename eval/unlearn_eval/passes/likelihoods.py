"""Likelihoods of whole rows, where nothing else of a pass is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unlearn.data.tokenization import Example
from unlearn.errors import DataError
from unlearn.model.scoring import score_examples
from unlearn_eval.arrays import FloatArray
from unlearn_eval.passes.base import AuditedState
from unlearn_eval.scores.processes import sharded

__all__ = ["check_targets", "mean_log_probs", "summed_log_probs"]


def summed_log_probs(audited: AuditedState, rows: Sequence[Example]) -> FloatArray:
    """Return the log-probability of the targets of each row, Σ_t ℓ_t, in one pass, in nats.

    Of several processes each scores its share.

    Args:
        audited: the state.
        rows: the records; they may repeat.

    Returns:
        float64[R]; −∞ where the model rules a target out.

    Raises:
        DataError: naming a record without a target, or whose log-probability is NaN.
    """

    def share(mine: list[int]) -> list[float]:
        part = [rows[i] for i in mine]
        check_targets(part)
        if not part:
            return []
        statistics, offsets = score_examples(audited.model, audited.head, part)
        sums = np.add.reduceat(statistics.log_prob.double().numpy(), offsets[:-1])
        wrong = np.flatnonzero(np.isnan(sums))
        if wrong.size:
            raise DataError(
                f"record {part[wrong[0]].id!r}: its log-probability is NaN, as it was asked for "
                f"here ({len(part[wrong[0]].ids)} tokens); look for overflow in the weights"
            )
        shares: list[float] = sums.tolist()
        return shares

    return np.array(sharded(share, len(rows)), dtype=np.float64)


def check_targets(rows: Sequence[Example]) -> None:
    """Refuse rows of which nothing is predicted.

    Raises DataError naming the first.
    """
    for row in rows:
        if not row.targets:
            raise DataError(f"record {row.id!r} has no target token to score; leave it out")


def mean_log_probs(audited: AuditedState, rows: Sequence[Example]) -> FloatArray:
    """Return the mean log-probability of each row's target tokens in one pass, in nats.

    Args:
        audited: the state.
        rows: the records; they may repeat.

    Returns:
        float64[R].

    Raises:
        DataError: naming a record whose log-probability is NaN.
    """
    counts = np.array([row.targets for row in rows], dtype=np.int64)
    mean: FloatArray = summed_log_probs(audited, rows) / counts
    return mean
