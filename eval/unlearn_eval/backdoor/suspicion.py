"""How suspicious is a training record: what its answer hangs on, and where it lies among others."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray

__all__ = ["SPECTRAL_PAPER", "hits_at", "ranks", "spectral"]

SPECTRAL_PAPER = "https://arxiv.org/abs/1811.00636"


def spectral(features: npt.ArrayLike) -> FloatArray:
    """Return the squared projection of each record's features on their main direction.

    τ_i = ⟨h_i − h̄, v⟩², v the first right singular vector of the centred features: records that a
    backdoor joins lie together, far from the mean (Tran, Li and Madry, "Spectral Signatures in
    Backdoor Attacks", arXiv 1811.00636, algorithm 1; there by class, here over all records, as an
    answer has no class).

    Args:
        features: [R, H], R ≥ 2.

    Returns:
        float64[R], ≥ 0.

    Raises:
        DataError: if there are fewer than two records, or a feature is not finite.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise DataError(f"spectral signatures need two records or more, not shape {values.shape}")
    if not np.isfinite(values).all():
        raise DataError("spectral signatures: a hidden state is not finite")
    centred = values - values.mean(axis=0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    scores: FloatArray = (centred @ direction) ** 2
    return scores


def ranks(scores: npt.ArrayLike) -> FloatArray:
    """Return the rank of each score among all, 1 the largest, ties at their mean.

    Args:
        scores: [R].

    Returns:
        float64[R].
    """
    from scipy import stats

    placed: FloatArray = stats.rankdata(-np.asarray(scores, dtype=np.float64))
    return placed


def hits_at(ranked: Sequence[str], planted: Collection[str], k: int) -> int:
    """Count the planted records among the first k of a ranking."""
    known = set(planted)
    return sum(name in known for name in ranked[:k])
