"""Likelihoods of records after a prefix of unseen records, and after one of members."""

from __future__ import annotations

from collections.abc import Mapping

from unlearn_eval.membership import con_recall
from unlearn_eval.passes.base import AuditedState, Material, PassResult, PlannedPass
from unlearn_eval.passes.prefix import SHOTS, shots_prefix
from unlearn_eval.passes.recall import after, sides_and_prefix
from unlearn_eval.scores.cache import Cache
from unlearn_eval.scores.measures import Measurement
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["plan"]


def plan(material: Material) -> PlannedPass:
    """Plan the passes of an audit: two more forward passes over both sides.

    The members are drawn from the records kept, which every state but the base was trained on. The
    pass after non-members is that of `recall`, taken from the cache where both are asked for.

    Raises DataError if there are too few unseen or kept records, or none fits before the longest.
    """
    sides, prefix = sides_and_prefix(material, "con_recall")
    shots = material.drawn("retain", SHOTS, "con_recall")
    longest = max(len(e.ids) for _, part in sides.values() for e in part)
    seen_prefix = shots_prefix(material, [material.examples["retain"][i] for i in shots], longest)

    def run(audited: AuditedState, scores: Mapping[str, TokenScores], cache: Cache) -> PassResult:
        result = PassResult()
        for split, (positions, part) in sides.items():
            values = con_recall.score(
                after(audited, cache, material, part, prefix),
                after(audited, cache, material, part, seen_prefix),
                scores[split].per_record(scores[split].log_prob)[positions],
            )
            params = {"gamma": con_recall.GAMMA}
            result.add(
                split, Measurement("membership.con_recall", "score", positions, values, params)
            )
        return result

    return PlannedPass(run, 2 * sum(len(part) for _, part in sides.values()))
