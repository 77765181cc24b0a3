"""Unseen people of like size: what shows how much a statistic varies when nobody was deleted."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from unlearn_eval.arrays import IntArray

__all__ = ["MIN_GROUPS", "Group", "unseen_groups"]

MIN_GROUPS = 4
"""Fewer unseen people than this show too little of how variances differ among them."""


class Group(NamedTuple):
    """Some unseen people in place of the forgotten ones.

    Attributes:
        records: int64[n], positions in the holdout.
        rest: int64[m], those of everybody else in the holdout.
    """

    records: IntArray
    rest: IntArray


def unseen_groups(
    forget: Sequence[Hashable | None], holdout: Sequence[Hashable | None]
) -> list[Group]:
    """Group the unseen records as the forgotten ones are: as many people, about as many records.

    A single forgotten record stands for itself: each unseen person gives one, and a record without
    a person, too. Records that are of nobody in particular are otherwise left alone: whether they
    belong together, and so how much their mean varies, is not known. A person with more records
    than needed gives the first of them; one with fewer than half is left out.

    Args:
        forget: the subject of each forgotten record, None where it has none.
        holdout: the same of the unseen ones.

    Returns:
        The groups, no record in two of them; empty if there are fewer than `MIN_GROUPS`, or the
        forgotten records are not all of known people.
    """
    people: dict[Hashable, list[int]] = {}
    single = len(forget) == 1
    for i, label in enumerate(holdout):
        if label is not None or single:
            people.setdefault((label, i if label is None else None), []).append(i)
    if not single and None in forget:
        return []
    together, size = (1, 1) if single else (len(set(forget)), len(forget))
    least = size / together / 2
    able = [positions for positions in people.values() if len(positions) >= least]
    share = -(-size // together)
    groups = []
    for start in range(0, len(able) - together + 1, together):
        chosen = able[start : start + together]
        records = np.array([i for positions in chosen for i in positions[:share]], dtype=np.int64)
        theirs = np.concatenate([np.array(positions) for positions in chosen])
        rest = np.setdiff1d(np.arange(len(holdout)), theirs)
        if len(rest):
            groups.append(Group(records, rest))
    return groups if len(groups) >= MIN_GROUPS else []
