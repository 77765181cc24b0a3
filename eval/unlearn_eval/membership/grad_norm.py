"""Gradient norm: members are the records that training would hardly move the model for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray

__all__ = ["PAPER", "SUMMARY", "score"]

PAPER = "https://arxiv.org/abs/2402.17012"
SUMMARY = "minus the norm of the gradient of a record's loss in the adapter's weights"


def score(norms: npt.ArrayLike) -> FloatArray:
    """Return −‖∇_θ (1/|x|) Σ_t −ℓ_t‖₂ of every record.

    Wang et al., "Pandora's White-Box" (arXiv 2402.17012), whose gradient-norm attack thresholds the
    norm over parameters; here θ is what was trained: the adapter, or the whole model without one.

    Args:
        norms: [R], from `unlearn_eval.passes.grad_norm`.

    Returns:
        float64[R] ≤ 0; larger = more likely a member.

    Raises:
        DataError: if a norm is NaN, infinite or negative.
    """
    values = np.asarray(norms, dtype=np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise DataError(
            f"attack 'grad_norm': record {int(np.argmax(wrong))} (from 0) has a gradient norm of "
            f"{values[wrong][0]}; look for overflow in the weights"
        )
    return -values
