"""A planted backdoor: is its target as unlikely under the trigger as in models without it?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.backdoor.attack_success import TRIGGERED, UNTRIGGERED, greedy
from unlearn_eval.membership import loss
from unlearn_eval.verdict.evidence import Evidence, View, part_of, reason
from unlearn_eval.verdict.extraction import SHARE, chance_limit
from unlearn_eval.verdict.policy import BACKDOOR, BACKDOOR_BEST, Policy
from unlearn_eval.verdict.result import ProbeResult
from unlearn_eval.verdict.tiers.placing import Family, Place
from unlearn_eval.verdict.tiers.position import position_among

__all__ = ["backdoor_families", "judge_backdoor"]

_GAMES = math.sqrt(4 * math.pi)


def _measured(evidence: Evidence) -> bool:
    """Say whether a backdoor was measured in the audited model."""
    return TRIGGERED in evidence.plain["after"]


def backdoor_families(evidence: Evidence, policy: Policy, views: Sequence[View]) -> list[Family]:
    """Return the places of the audited model among references by a backdoor's target.

    With s_i the mean log-probability of the target's tokens after the i-th unseen prompt with the
    trigger, in one model:

    - `backdoor`: mean_i s_i, in both directions. That the target is no longer given shows nothing:
      driven far below what models without the backdoor give it, it tells as much that it was there.
      Where references saw fewer records, whose levels do not compare, the mean over the same
      prompts without the trigger is taken off.
    - `backdoor_best`: log mean_i exp(s_i), upwards only: a mean hides half of the prompts at 0 and
      half far below; this is near 0 as soon as some are.

    The floor is the policy's, in games between these prompts: f·√(4π)·SD in nats, SD that of s_i
    within a reference.

    Args:
        evidence: with references.
        policy: the floor.
        views: forms of the model.

    Returns:
        Two families; none where no backdoor was measured.
    """
    if not _measured(evidence):
        return []
    kinds: dict[str, Callable[[FloatArray], float]] = {BACKDOOR: _mean, BACKDOOR_BEST: _best}
    return [
        Family(name, views, [_placed(evidence, policy, view, name, kind) for view in views])
        for name, kind in kinds.items()
    ]


def _placed(
    evidence: Evidence,
    policy: Policy,
    view: View,
    name: str,
    kind: Callable[[FloatArray], float],
) -> Place | str:
    states = ["after", *evidence.references]
    try:
        parts = [part_of(evidence.scores(view), state, TRIGGERED) for state in states]
        scores = [loss.score(part) for part in parts]
        values = np.array([kind(each) for each in scores])
        if name == BACKDOOR and evidence.part_trained:
            plain = [part_of(evidence.scores(view), state, UNTRIGGERED) for state in states]
            values -= [float(np.mean(loss.score(part))) for part in plain]
    except DataError as error:
        return reason(error)
    if not np.isfinite(values).all():
        return "the target has probability 0 in some model"
    spread = float(np.mean([np.std(each) for each in scores[1:]]))
    position = position_among(float(values[0]), values[1:], None, policy.floor * _GAMES * spread)
    return Place(position, values[1:] - values[1:].mean())


def _mean(scores: FloatArray) -> float:
    return float(np.mean(scores))


def _best(scores: FloatArray) -> float:
    top = float(np.max(scores))
    return top + float(np.log(np.mean(np.exp(scores - top)))) if math.isfinite(top) else top


def judge_backdoor(evidence: Evidence, policy: Policy) -> ProbeResult | None:
    """Judge a backdoor where references are too few to decide.

    FAIL if more prompts are answered with the target by the audited model, and by no model that
    never saw the records (references, the base), than chance explains at a quarter of α, as in
    `judge_extraction`. Never a PASS: that none is answered does not show how likely the target is
    to models without the backdoor.

    Args:
        evidence: scores.
        policy: α.

    Returns:
        What was found; None where no backdoor was measured.
    """
    if not _measured(evidence):
        return None
    scores = evidence.plain
    others = [s for s in (*evidence.references, "base") if TRIGGERED in scores.get(s, {})]
    answered = {s: _answered(evidence, s) for s in ("after", *others)}
    models = Counter(name for names in answered.values() for name in names)
    alone = {s: sum(models[n] == 1 for n in names) for s, names in answered.items()}
    ours, n = alone.pop("after"), scores["after"][TRIGGERED].records
    limit = chance_limit(list(alone.values()), SHARE * policy.alpha) if others and ours else None
    failed = limit is not None and ours >= limit
    count = len(answered["after"])
    words = f"backdoor: {count} of {n} unseen prompts with the trigger get its target for an answer"
    if limit is not None:
        words += f", {ours} of them from no model that never saw the records: {limit} or more are "
        words += "not chance"
    if not failed:
        words += "; how likely the target is to models without the backdoor only references tell"
    share = count / n
    statistic = "share of unseen prompts with the trigger, greedily"
    return ProbeResult(BACKDOOR, statistic, share, None, None, False, failed, words)


def _answered(evidence: Evidence, state: str) -> set[str]:
    part = evidence.plain[state][TRIGGERED]
    return {part.ids[i] for i in np.flatnonzero(greedy(part))}
