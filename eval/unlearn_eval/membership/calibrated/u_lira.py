"""U-LiRA: does the model look trained and unlearned, or as if it had never seen the record?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership.calibrated import lira

__all__ = ["PAPER", "SUMMARY", "score"]

PAPER = "https://arxiv.org/abs/2403.01218"
SUMMARY = "likelihood ratio between unlearned models and models that never saw the record"


def score(
    target: npt.ArrayLike,
    unlearned: npt.ArrayLike,
    retrained: npt.ArrayLike,
    *,
    variance: lira.Spread = "auto",
) -> FloatArray:
    """Return log N(φ; μ_u, σ_u²) − log N(φ; μ_r, σ_r²) of every record.

    u are models that were trained on the record and then unlearned it by the method under audit, r
    models trained without it: LiRA online with these in the places of IN and OUT (Hayes et al.,
    "Inexact Unlearning Needs More Careful Evaluations", arXiv 2403.01218, U-LiRA). It costs
    trainings and unlearnings of both kinds, and finds traces on either side: a record that the
    method pushes below unseen ones is recognised too.

    Args:
        target: [R], `lira.confidence` in the audited model.
        unlearned: [K, R], the same in models that unlearned the record.
        retrained: [L, R], the same in models that never saw it.
        variance: as in `lira.offline`.

    Returns:
        float64[R]; larger = more likely that the record was trained on and unlearned.

    Raises:
        DataError: if shapes or values do not fit, or one kind of model does not vary.
        OptionError: if `variance` is unknown.
    """
    first, second = np.asarray(unlearned, np.float64), np.asarray(retrained, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise DataError(
            "attack 'u_lira' needs the scores of unlearned and of retrained models as [models, "
            f"records], not shapes {first.shape} and {second.shape}"
        )
    both = np.concatenate((first, second))
    member = np.zeros(both.shape, dtype=bool)
    member[: len(first)] = True
    return lira.online(target, both, member, variance=variance)
