"""Likelihoods of records after a prefix of unseen records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unlearn.data.tokenization import Example
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.membership import recall
from unlearn_eval.passes.base import AuditedState, Material, PassResult, PlannedPass
from unlearn_eval.passes.likelihoods import mean_log_probs
from unlearn_eval.passes.prefix import SHOTS, prefixed, shots_prefix
from unlearn_eval.scores.cache import Cache, examples_digest
from unlearn_eval.scores.measures import Measurement
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["Sides", "after", "plan", "sides_and_prefix"]

Sides = Mapping[str, tuple[IntArray, list[Example]]]
"""By split, which records are scored, and the records."""


def plan(material: Material) -> PlannedPass:
    """Plan the pass of an audit: one more forward pass over both sides.

    The prefix is drawn from the holdout, at most half of it, and these records are not scored.

    Raises DataError if there are too few unseen records, or none fits before the longest.
    """
    sides, prefix = sides_and_prefix(material, "recall")

    def run(audited: AuditedState, scores: Mapping[str, TokenScores], cache: Cache) -> PassResult:
        result = PassResult()
        for split, (positions, part) in sides.items():
            plain = scores[split].per_record(scores[split].log_prob)[positions]
            values = recall.score(after(audited, cache, material, part, prefix), plain)
            result.add(split, Measurement("membership.recall", "score", positions, values))
        return result

    return PlannedPass(run, sum(len(part) for _, part in sides.values()))


def sides_and_prefix(material: Material, option: str) -> tuple[Sides, IntArray]:
    """Draw the records of a non-member prefix, and say which are left to score.

    Raises DataError if there are too few unseen records, or none fits before the longest.
    """
    shots = material.drawn("holdout", SHOTS, option)
    sides = {}
    for split, part in material.sides().items():
        out = set(shots.tolist()) if split == "holdout" else set()
        positions = np.array([i for i in range(len(part)) if i not in out], dtype=np.int64)
        sides[split] = (positions, [part[i] for i in positions])
    longest = max(len(e.ids) for _, part in sides.values() for e in part)
    holdout = material.examples["holdout"]
    return sides, shots_prefix(material, [holdout[i] for i in shots], longest)


def after(
    audited: AuditedState,
    cache: Cache,
    material: Material,
    part: Sequence[Example],
    prefix: IntArray,
) -> FloatArray:
    """Return the mean log-probability of each record after a prefix, in nats.

    Args:
        audited: the state.
        cache: where results are kept.
        material: what the audit has.
        part: the records.
        prefix: token ids.

    Returns:
        float64[R].
    """
    rows = [prefixed(material, example, prefix) for example in part]
    arrays: FloatArray = cache.get(
        lambda: {"mean": mean_log_probs(audited, rows)},
        *("mean after a prefix", audited.stamp, examples_digest(rows), TOKEN_BUDGET),
    )["mean"]
    return arrays
