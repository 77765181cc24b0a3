"""Under which policy was a state first looked at? A later one is chosen with its numbers seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unlearn.data.tokenization import Example
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn_eval.scores.cache import Cache, examples_digest
from unlearn_eval.scores.token_scores import SAMPLERS

__all__ = ["seen_without"]


def seen_without(
    policy: str | None, cache: Cache, stamps: Mapping[str, str], forget: Sequence[Example]
) -> bool:
    """Say whether the audited state was looked at before on these records, but not by this policy.

    The cache keeps, of each state and set of records, the policy of the audit that looked first,
    noted before any score exists: an audit that was killed and is run again under its policy has
    seen nothing. What was looked at without a cache, or elsewhere, is not known.

    Args:
        policy: digest of the policy; None for an audit without one.
        cache: of scores.
        stamps: what decides the numbers of each state; `after` is judged, the others may be some
            day.
        forget: the records in question.

    Returns:
        Whether it was.
    """
    records, own = examples_digest(forget), (policy or "").encode()
    first = {}
    for state, stamp in stamps.items():
        facts = ("first look", stamp, records)
        noted = cache.read(*facts)
        if noted is not None:
            first[state] = noted["policy"].tobytes()
        elif cache.read("scores", stamp, records, SAMPLERS, TOKEN_BUDGET) is not None:
            first[state] = b""  # by an earlier version, which noted no policy
        else:
            first[state] = own
            cache.write({"policy": np.frombuffer(own, dtype=np.uint8)}, *facts)
    return policy is not None and first["after"] != own
