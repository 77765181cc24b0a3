"""What a verdict asks beside membership and extraction: utility, and that all was audited."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence, Set
from typing import NamedTuple

import numpy as np

from unlearn_eval.arrays import FloatArray
from unlearn_eval.results.rows import cluster_labels
from unlearn_eval.scores.measures import Scores
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.statistics import mean_interval
from unlearn_eval.utility import loss
from unlearn_eval.verdict.evidence import Evidence, View
from unlearn_eval.verdict.policy import AS_IS, VERBATIM, Policy, is_form
from unlearn_eval.verdict.result import Outcome, Utility

__all__ = ["MissingPart", "judge_utility", "not_audited"]


def judge_utility(evidence: Evidence, policy: Policy) -> Utility:
    """Compare the loss on kept records with that of the model before, record by record.

    The mean of l̄_after − l̄_before over the retain split (the holdout where nothing was kept), with
    an interval at level 1 − 2α by subject: PASS if it lies below the margin, FAIL if above. Without
    the model before, the mean over references that saw all kept records stands in its place. With
    fewer than 10 subjects the interval of the *kept* records is one by record: they are not drawn
    from others, their people are those whom the model is kept for. The holdout stands for others,
    and then decides nothing.

    Args:
        evidence: scores of the audited model and what it is compared with.
        policy: margin and α.

    Returns:
        What was found.
    """
    scores, margin = evidence.plain, policy.utility_margin
    split = "retain" if "retain" in scores["after"] else "holdout"
    states = [s for s in ("before",) if split in scores.get(s, {})]
    name = "before"
    if not states:
        # one that saw half of the kept records knows them worse, and would excuse what was lost
        whole = [s for s in evidence.references if s not in evidence.partial]
        states = [s for s in whole if split in scores[s]]
        name = "the references"
    if split not in scores["after"] or not states:
        what = "kept or unseen records" if split not in scores["after"] else "model before"
        words = f"no {what} to compare on: pass " + (
            "--retain" if split not in scores["after"] else "--before"
        )
        return Utility(None, None, None, margin, words, "INCONCLUSIVE")
    after = scores["after"][split]
    usual = np.mean([_aligned(scores[s][split], after) for s in states], axis=0)
    with np.errstate(invalid="ignore"):
        rise: FloatArray = loss.score(after) - usual
    usable = {"t", "cluster", *(["conditional"] if split == "retain" else [])}
    labels = evidence.subjects.get(split)
    return _non_inferior(rise, labels, policy, usable, f"{split} against {name}")


def _aligned(scores: TokenScores, like: TokenScores) -> FloatArray:
    """Return the loss of each record of another matrix, in its order."""
    at = {name: i for i, name in enumerate(scores.ids)}
    values = loss.score(scores)
    return np.array([values[at[name]] for name in like.ids])


def _non_inferior(
    rise: FloatArray,
    labels: Sequence[Hashable | None] | None,
    policy: Policy,
    usable: Set[str],
    where: str,
) -> Utility:
    """Decide by the interval of the mean rise."""
    margin = policy.utility_margin
    if np.isnan(rise).any():
        words = f"{where}: both models rule a record out"
        return Utility(None, None, None, margin, words, "INCONCLUSIVE")
    interval = mean_interval(rise, 1 - 2 * policy.alpha, cluster_labels(labels))
    if interval.method not in usable:
        words = (
            f"{where}: the loss rose by {interval.value:.3f}, without an interval: {interval.note}"
        )
        value = interval.value if math.isfinite(interval.value) else None
        return Utility(value, None, None, margin, words, "INCONCLUSIVE")
    words = (
        f"{where}: the loss rose by {interval.value:.3f} [{interval.low:.3f}, "
        f"{interval.high:.3f}] nats a token; up to {margin:g} does not matter"
    )
    outcome: Outcome = "INCONCLUSIVE"
    if interval.high < margin:
        outcome = "PASS"
    elif interval.low > margin:
        outcome = "FAIL"
    return Utility(interval.value, interval.low, interval.high, margin, words, outcome)


class MissingPart(NamedTuple):
    """A declared state that the audit lacks.

    Attributes:
        reason: what is missing.
        remedy: what to do about it.
    """

    reason: str
    remedy: str


def not_audited(evidence: Evidence, policy: Policy, by_references: bool) -> Iterator[MissingPart]:
    """Yield each declared state that the audit lacks, or has of some records only."""
    for declared in policy.deployments:
        views = [v for v in evidence.views if v.prompt_state == VERBATIM]
        views = [v for v in views if is_form(v.deployment, declared)]
        whole = [v for v in views if _complete(evidence, evidence.views[v], by_references)]
        if not views or len(whole) < len(views):
            what = f"deployment {declared}"
            how = "audit" if declared == AS_IS else f"audit --robustness {declared}"
            remedy = f"{what}: run `unlearn {how}`, for the model and its references"
            yield MissingPart(f"not audited: {what}", remedy)
    for declared in policy.prompt_states:
        what = f"prompt state {declared}"
        view = View(AS_IS, declared)
        known = view in evidence.views and _complete(evidence, evidence.views[view], by_references)
        if declared in evidence.unmeasured:
            remedy = f"{what}: a model with a longer context, or a policy without this state"
            yield MissingPart(f"{what} was {evidence.unmeasured[declared]}", remedy)
        elif declared != VERBATIM and not known:
            how = " --paraphrases FILE" if declared.startswith("paraphrase:") else ""
            remedy = f"{what}: run `unlearn audit --also prompt_states`{how}"
            yield MissingPart(f"not audited: {what}", remedy)


def _complete(evidence: Evidence, scores: Scores, by_references: bool) -> bool:
    """Say whether the audited model, and references that decide, were scored in a state."""
    wanted = ["after", *(evidence.references if by_references else [])]
    return all("forget" in scores.get(state, {}) for state in wanted)
