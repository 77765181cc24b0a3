"""Are references models of their own, or copies of one?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.membership import loss
from unlearn_eval.verdict.evidence import Evidence, part_of
from unlearn_eval.verdict.policy import AS_IS
from unlearn_eval.verdict.tiers.placing import Family, Place

__all__ = ["independent"]

_CHANCE = 0.005
"""How often independent references may be taken for copies, because they agree on the forgotten
records much better than on unseen people's."""
_NEAR_COPIES = 0.1
"""Two references that differ by less than this part of what two usually do are one model twice."""


def independent(evidence: Evidence, families: Sequence[Family]) -> tuple[bool | None, str]:
    """G2: references are models of their own, and not copies of one.

    On the forgotten records they vary as on unseen people's (F test over the probes), and no two of
    them are far nearer to each other than two usually are.
    """
    if twice := _same_twice(evidence):
        return False, f"references are not independent: {twice}; train them from different seeds"
    agreeing = [
        (place.agreeing, family.probe)
        for family in families
        for view, place in zip(family.views, family.places, strict=True)
        if isinstance(place, Place) and place.agreeing is not None and view.deployment == AS_IS
    ]
    if not agreeing:
        return None, "not needed: references are the comparison"
    least, probe = min(agreeing)
    if least < _CHANCE / len(agreeing):
        return False, (
            f"references are not independent: by {probe} they agree on the forgotten records far "
            "better than on unseen people's; train them from different seeds"
        )
    return True, "references vary on the forgotten records as on unseen people's"


def _same_twice(evidence: Evidence) -> str:
    """Name two references whose scores of all records are nearly the same, if there are such."""
    states = evidence.references
    try:
        scores = np.stack([
            np.concatenate([loss.score(part_of(evidence.plain, state, split))
                            for split in ("forget", "holdout")])
            for state in states
        ])  # fmt: skip
    except DataError:
        return ""
    pairs = list(combinations(range(len(states)), 2))
    with np.errstate(invalid="ignore"):
        apart = [float(np.sqrt(np.mean((scores[i] - scores[j]) ** 2))) for i, j in pairs]
    least = int(np.argmin(apart))
    if not apart[least] < _NEAR_COPIES * float(np.median(apart)):
        return ""
    first, second = (states[i] for i in pairs[least])
    return f"{first} and {second} give nearly the same scores"
