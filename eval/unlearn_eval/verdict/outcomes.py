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
from unlearn_eval.verdict.extraction import ExtractionCounts, chance_limit
from unlearn_eval.verdict.policy import AS_IS, VERBATIM, Policy, is_form
from unlearn_eval.verdict.result import Exposure, Outcome, ProbeResult, Utility

__all__ = ["MissingPart", "judge_exposure", "judge_utility", "not_audited"]


def judge_utility(evidence: Evidence, policy: Policy, kept: ProbeResult | None = None) -> Utility:
    """Compare the loss on kept records with that of models that lack nothing else.

    Where references saw all kept records, by the audited model's place among them: PASS within the
    limits of `decide_by_references` with the policy's `utility_margin` as the floor, or better than
    they are (which is for `judge_exposure` to judge), FAIL if shown worse. Retrained models, too,
    predict the kept records a little worse than the model before.

    Else with that of the model before, record by record: the mean of l̄_after − l̄_before over the
    retain split (the holdout where nothing was kept), with an interval at level 1 − 2α by subject:
    PASS if it lies below the margin, FAIL if above. Without the model before, the mean over
    references that saw all kept records stands in its place. With fewer than 10 subjects the
    interval of the *kept* records is one by record: they are not drawn from others, their people
    are those whom the model is kept for. The holdout stands for others, and then decides nothing.

    Args:
        evidence: scores of the audited model and what it is compared with.
        policy: margin and α.
        kept: the place of their mean score among the references, if they can tell.

    Returns:
        What was found.
    """
    if kept is not None and kept.value is not None and kept.reference_mean is not None:
        return _among_references(kept, policy)
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


def _among_references(kept: ProbeResult, policy: Policy) -> Utility:
    """Judge the kept records' mean score downwards."""
    assert kept.value is not None
    assert kept.reference_mean is not None
    assert kept.high is not None
    rise, half = kept.reference_mean - kept.value, kept.high - kept.reference_mean
    words = (
        f"retain against the references: the loss is {rise:+.3f} nats a token from their mean; up "
        f"to {half:.3f} does not matter"
    )
    outcome: Outcome = "PASS" if kept.passed or rise < 0 else "INCONCLUSIVE"
    if kept.failed and rise > 0:
        outcome = "FAIL"
    value = rise if math.isfinite(rise) else None
    return Utility(value, None, None, policy.utility_margin, words, outcome)


def judge_exposure(
    evidence: Evidence,
    policy: Policy,
    kept: ProbeResult | None,
    away: ExtractionCounts | None,
    error: float,
) -> Exposure | None:
    """Judge whether deleting some records made the kept ones easier to get out.

    A method that goes on training on the kept records drives them in deeper: people who asked for
    nothing are exposed. Against references that saw all kept records, FAIL if

    - the kept records' mean score is shown above the references' (`decide_by_references`), or
    - more kept records come out of the audited model and of no reference than chance explains
      (as in `judge_extraction`).

    PASS if the first is shown not to be and no kept record comes out of the audited model alone.
    Without such references nothing is claimed: INCONCLUSIVE if the kept records are known better
    than before by more than the policy's margin, else nothing.

    Args:
        evidence: scores of the audited model and what it is compared with.
        policy: margin and α.
        kept: the place of their mean score among the references, if they can tell.
        away: how many kept records come out of which models, if that was measured.
        error: of FAIL by these.

    Returns:
        What was found; None where nothing can be said and nothing gives rise to it.
    """
    if kept is None or kept.value is None or kept.reference_mean is None or away is None:
        return _above_before(evidence, policy)
    above = kept.value - kept.reference_mean
    words = f"{away.ours} of {away.records} kept records come out"
    if away.most is not None:
        words += f", {away.most} at most of a model that never saw the forgotten ones"
    words += f"; their loss is {-above:+.3f} nats a token from such models' mean"
    limit = chance_limit(away.others, error)
    outcome: Outcome = "PASS" if (kept.passed or above < 0) and not away.alone else "INCONCLUSIVE"
    if (kept.failed and above > 0) or (away.alone and away.alone >= limit):
        outcome = "FAIL"
        words = "exposes others: " + words
    if away.alone:
        words += f"; {away.alone} come out of no such model ({limit} or more are not chance)"
    return Exposure(away.ours, away.most, away.records, words, outcome)


def _above_before(evidence: Evidence, policy: Policy) -> Exposure | None:
    """Say that kept records are known better than before, where nothing explains how far."""
    scores = evidence.plain
    if any("retain" not in scores.get(state, {}) for state in ("before", "after")):
        return None
    after = scores["after"]["retain"]
    with np.errstate(invalid="ignore"):
        fall = float(np.mean(_aligned(scores["before"]["retain"], after) - loss.score(after)))
    if not fall > policy.utility_margin:
        return None
    words = (
        f"the loss of the kept records fell by {fall:.3f} nats a token: they may come out more "
        "than before, which only references can tell"
    )
    return Exposure(0, None, after.records, words, "INCONCLUSIVE")


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
            remedy = f"{what}: run `unlearn audit --also prompt_states{how}`"
            yield MissingPart(f"not audited: {what}", remedy)


def _complete(evidence: Evidence, scores: Scores, by_references: bool) -> bool:
    """Say whether the audited model, and references that decide, were scored in a state."""
    wanted = ["after", *(evidence.references if by_references else [])]
    return all("forget" in scores.get(state, {}) for state in wanted)
