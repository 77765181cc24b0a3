"""RMIA: did a record gain more likelihood over its references than other records did?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from unlearn.errors import DataError, OptionError
from unlearn_eval.arrays import BoolArray, FloatArray
from unlearn_eval.membership.calibrated.spread import reference_scores

__all__ = ["PAPER", "SUMMARY", "score"]

PAPER = "https://arxiv.org/abs/2312.03262"
SUMMARY = "share of unseen records whose likelihood, over that of references, grew less"


def score(
    target: npt.ArrayLike,
    references: npt.ArrayLike,
    population: npt.ArrayLike,
    population_references: npt.ArrayLike,
    member: npt.ArrayLike | None = None,
    *,
    gamma: float = 1.0,
    a: float = 1.0,
    population_member: npt.ArrayLike | None = None,
) -> FloatArray:
    """Return the share of z with (p_x/p̄_x)/(p_z/p̄_z) > γ, for every record x.

    p̄ = ½ ((1 + a) p̄_out + 1 − a), with p̄_out the mean over references that did not see the
    record: the offline form, in which p̄_in = a p̄_out + 1 − a stands for models that did
    (Zarifzadeh et al., "Low-Cost High-Power Membership Inference Attacks", arXiv 2312.03262). A tie
    counts ½, so that population records may themselves be attacked: with γ = 1 their scores and
    those of others have the AUC that p/p̄ has.

    With a < 1 the constant ½ (1 − a) outweighs whatever references give unlikely text, and the
    attack becomes that of the loss. a = 1 (p̄ = p̄_out) is what the original code takes where
    nothing is known, and γ = 1 what it takes throughout; the configurations of its first
    experiments have γ = 2, and a between 0 and 1, tuned with a reference in the place of the target
    (1/3 for CIFAR-10).

    Args:
        target: [R], log p_x in the audited model: the mean log-probability of the tokens, so that p
            compares between lengths. −inf is allowed.
        references: [K, R], the same under K references.
        population: [Z], log p_z of records that the audited model never saw.
        population_references: [K, Z], of the same references.
        member: bool [K, R], which references saw a record, and are not used for it; None if none.
        gamma: by how much x must have gained more, above 0.
        a: how far references that did not see a record tell what one that did would say, in [0, 1].
        population_member: bool [K, Z], as `member`, for the population; None if none saw it.

    Returns:
        float64[R] in [0, 1]; larger = more likely a member.

    Raises:
        DataError: if shapes or values do not fit, there is no population, or a record has no
            reference that did not see it.
        OptionError: if γ or a is out of range.
    """
    if not 0 < gamma < np.inf:
        raise OptionError(f"gamma {gamma} is not a positive ratio; 1 is usual")
    if not 0 <= a <= 1:
        raise OptionError(f"a = {a} is not in [0, 1]; 1 takes the references as they are")
    x, others, inside = reference_scores("rmia", target, references, member)
    z, z_others, unseen = reference_scores(
        "rmia", population, population_references, population_member
    )
    if not len(z):
        raise DataError("attack 'rmia' needs a population of records that no model saw")
    if np.isinf(z).any():
        record = int(np.argmax(np.isinf(z)))
        raise DataError(
            f"attack 'rmia': the target gives population record {record} (from 0) no finite score; "
            "leave it out"
        )
    gain = x - _log_mean(others, ~inside, a)
    other_gain = np.sort(z - _log_mean(z_others, ~unseen, a)) + np.log(gamma)
    below = np.searchsorted(other_gain, gain, "left")
    return (below + np.searchsorted(other_gain, gain, "right")) / (2 * len(z))


def _log_mean(references: FloatArray, chosen: BoolArray, a: float) -> FloatArray:
    """Return log p̄ of every record, from log p under the references chosen for it."""
    count = chosen.sum(axis=0)
    if not count.all():
        raise DataError(
            f"attack 'rmia': every reference saw record {int(np.argmin(count))} (from 0); add one "
            "that did not"
        )
    outside = logsumexp(np.where(chosen, references, -np.inf), axis=0) - np.log(count)
    with np.errstate(divide="ignore"):  # a = 1 leaves nothing but the references
        log_means: FloatArray = np.logaddexp(np.log((1 + a) / 2) + outside, np.log((1 - a) / 2))
    return log_means
