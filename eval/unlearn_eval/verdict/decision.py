"""PASS, FAIL or INCONCLUSIVE: the verdict on one deletion request, from scores and a policy.

Could someone who holds the unlearned model tell that it ever saw the records, more than from one
that never did? PASS asks for equivalence, so not finding evidence is INCONCLUSIVE; both directions
count. Three things can stand for models that never saw the records:

| tier | | where |
|---|---|---|
| A | k references retrained without the records; the model is the unit | `tiers/references.py` |
| B | canaries, half of them included by a coin | `tiers/canaries.py` |
| C | never-trained twins in the same model, by record or by subject | `tiers/twins.py`, `tiers/subject.py` |
"""  # noqa: E501  a table row is one line

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from unlearn.errors import DataError
from unlearn_eval.verdict.evidence import Evidence, ProvenanceFact, Twins, View
from unlearn_eval.verdict.extraction import (
    SHARE,
    ExtractionCounts,
    given_away,
    judge_extraction,
    kept_given_away,
)
from unlearn_eval.verdict.outcomes import (
    MissingPart,
    judge_exposure,
    judge_utility,
    not_audited,
)
from unlearn_eval.verdict.policy import Policy, load_policy
from unlearn_eval.verdict.power import power_statement
from unlearn_eval.verdict.result import (
    Exposure,
    Extracted,
    Gate,
    Outcome,
    ProbeResult,
    TierJudgement,
    Utility,
    Verdict,
)
from unlearn_eval.verdict.tiers.backdoor import judge_backdoor
from unlearn_eval.verdict.tiers.canaries import decide_by_canaries, judge_claim, judge_promise
from unlearn_eval.verdict.tiers.references import decide_by_references
from unlearn_eval.verdict.tiers.subject import decide_by_rank
from unlearn_eval.verdict.tiers.twins import decide_by_twins
from unlearn_eval.verdict.tiers.unseen_groups import unseen_groups

__all__ = [
    "Evidence",
    "Extracted",
    "Gate",
    "LeaveOneOut",
    "Policy",
    "ProbeResult",
    "ProvenanceFact",
    "Twins",
    "Utility",
    "Verdict",
    "View",
    "decide",
    "leave_one_out",
    "load_policy",
    "power_statement",
]

Tier = Literal["A", "B", "C"]


class LeaveOneOut(NamedTuple):
    """Verdicts on references, each judged by the others.

    Attributes:
        counts: how many of each outcome.
        verdicts: one a reference, in their order.
    """

    counts: Counter[Outcome]
    verdicts: list[Verdict]


def decide(
    evidence: Evidence,
    policy: Policy,
    *,
    name: str = "",
    chosen: Literal["before", "after"] = "after",
    audit_sha256: str = "",
    created: str = "",
) -> Verdict:
    """Decide one deletion request.

    The tier is A from `policy.min_references` references on, else B where the twins were
    randomised, else C. Then, in this order:

    - INCONCLUSIVE if a fact of G0 does not hold: the files are not of one story; or if references
      are near copies of each other.
    - FAIL if a membership probe failed (in tier C only where G2 passed; in tier A not where the
      audited model by its lineage was trained from the base without the records, and otherwise than
      every reference: what sets it apart may be the recipe), or extraction, utility or the exposure
      of kept records did. G1 is not asked: it shows that a PASS could have been denied, and what a
      deleted model does is the same whatever the model before was.
    - PASS if G1 passed, every probe passed in every declared deployment, extraction, utility and
      exposure passed, nothing declared is missing, and of no reference it is open whether it saw
      the records.
    - INCONCLUSIVE otherwise.

    A deleted model FAILs with probability α at most: α is that of membership and, by references, of
    the kept records where no model gives away a record that no other does, else ¾ α, and ¼ α
    extraction's, shared with that of the kept records. By twins, utility has an error α of its own,
    and so has each claimed ε, that of the policy and that of the lineage (tested where there are
    canaries); a backdoor has ¼ α. By references α is that of the look (`Policy.level`).

    Args:
        evidence: score matrices and facts.
        policy: what must hold.
        name: of the policy.
        chosen: whether the policy was fixed before the scores existed.
        audit_sha256: digest of `audit.json`.
        created: ISO time.

    Returns:
        The verdict; it holds aggregates only.

    Raises:
        DataError: if the scores do not hold the sampler of the policy's extraction.
    """
    findings = _findings(evidence, policy)
    outcome, reasons = _outcome(findings)
    would_decide = []
    if outcome == "INCONCLUSIVE":
        would_decide = [each.remedy for each in findings.missing]
        would_decide += _advice(evidence, policy, findings)
    return Verdict(
        outcome=outcome,
        tier=findings.tier,
        reasons=reasons,
        would_decide=would_decide,
        policy={
            "name": name,
            "sha256": policy.sha256,
            "chosen": chosen,
            "content": policy.content,
        },
        gates=findings.gates,
        probes=[*findings.membership.probes, *findings.claims],
        extraction=findings.extraction,
        utility=findings.utility,
        exposure=findings.exposure,
        power=power_statement(policy, *_sizes(evidence)),
        counts={
            "forget": evidence.forget.records,
            "holdout": _holdout(evidence),
            "subjects": evidence.subject_count,
            "references": len(evidence.references),
        },
        audit_sha256=audit_sha256,
        created=created,
    )


class _Findings(NamedTuple):
    """What a verdict is put together from.

    Attributes:
        tier: what stands for models that never saw the records.
        gates: G0 on hashes and lineages, G1 on the model before, G2 on models known to be good.
        membership: what its probes found.
        claims: what became of a claimed ε, by the policy and by the lineage, and of a backdoor
            without references.
        extraction: whether records come out.
        utility: whether the model still works.
        exposure: whether other people's records come out more.
        missing: what is declared and was not audited, or not proven.
        extracted: how many records come out of which models.
        recipe: how the references were trained otherwise than an audited model that is exact.
    """

    tier: Tier
    gates: list[Gate]
    membership: TierJudgement
    claims: list[ProbeResult]
    extraction: Extracted
    utility: Utility
    exposure: Exposure | None
    missing: list[MissingPart]
    extracted: ExtractionCounts
    recipe: Sequence[str]


def _findings(evidence: Evidence, policy: Policy) -> _Findings:
    """Judge membership, extraction and utility each by itself."""
    tier = _tier(evidence, policy)
    alpha = policy.level(len(evidence.references)) if tier == "A" else policy.alpha
    extracted = given_away(evidence, policy, tier == "A")
    kept_away = kept_given_away(evidence, policy) if tier == "A" else None
    tested = [part for part in (extracted, kept_away) if part is not None and part.tested]
    membership = _judge(tier, evidence)(evidence, policy, alpha * (1 - SHARE if tested else 1))
    share = SHARE * alpha / max(1, len(tested))
    claims = [judge_claim(evidence, policy), judge_promise(evidence, policy)]
    claims += [] if tier == "A" else [judge_backdoor(evidence, policy)]
    return _Findings(
        tier,
        [_facts(evidence), *membership.gates],
        membership,
        [claim for claim in claims if claim is not None],
        judge_extraction(extracted, policy, share),
        judge_utility(evidence, policy, membership.kept),
        judge_exposure(evidence, policy, membership.kept, kept_away, share),
        [*not_audited(evidence, policy, tier == "A"), *_unproven(evidence)],
        extracted,
        evidence.recipe if tier == "A" else (),
    )


def leave_one_out(evidence: Evidence, policy: Policy) -> LeaveOneOut:
    """Judge each reference as if it were the unlearned model, by the others.

    References are perfectly deleted, so a FAIL is an error of the procedure on real models.

    Args:
        evidence: with at least 3 references.
        policy: the policy; `min_references` is lowered to what is left, so that they decide.

    Returns:
        How many verdicts of each kind, and the verdicts.

    Raises:
        DataError: if there are fewer than 3 references.
    """
    references = evidence.references
    if len(references) < 3:
        raise DataError(f"{len(references)} references: 3 are needed to leave one of them out")
    fewer = min(policy.min_references, len(references) - 1)
    lowered = policy.model_copy(update={"min_references": fewer})
    verdicts = [decide(evidence.as_audited(reference), lowered) for reference in references]
    return LeaveOneOut(Counter(verdict.outcome for verdict in verdicts), verdicts)


def _tier(evidence: Evidence, policy: Policy) -> Tier:
    """Return the best tier that the evidence allows."""
    if len(evidence.references) >= policy.min_references:
        return "A"
    return "B" if evidence.twins is not None and evidence.twins.randomised else "C"


def _judge(tier: Tier, evidence: Evidence) -> Callable[[Evidence, Policy, float], TierJudgement]:
    """Return what decides membership; in tier C by rank for one subject, by θ for several."""
    if tier == "C":
        return decide_by_rank if evidence.one_subject else decide_by_twins
    return decide_by_references if tier == "A" else decide_by_canaries


def _facts(evidence: Evidence) -> Gate:
    """G0: hashes and lineages agree."""
    wrong = [fact.words for fact in evidence.facts if fact.agrees is False]
    if wrong:
        return Gate("G0", False, "does not hold: " + "; ".join(wrong))
    checked = [fact.words for fact in evidence.facts if fact.agrees]
    unknown = [fact.words for fact in evidence.facts if fact.agrees is None]
    words = "; ".join(checked) or "no hash or lineage was checked"
    if unknown:
        words += "; not checked: " + "; ".join(unknown)
    return Gate("G0", True if checked else None, words)


def _unproven(evidence: Evidence) -> list[MissingPart]:
    """Say of which references nothing shows that they never saw the records, by reason."""
    silent = evidence.doubtful
    if not silent:
        return []
    n = len(evidence.references)
    why = Counter(evidence.unproven[state] for state in silent)
    reasons = "; ".join(f"{count} {words}" for words, count in why.most_common())
    reason = (
        f"references: nothing shows that {len(silent)} of {n} never saw the records: {reasons}; a "
        "copy of the audited model would look like this, so they cannot show that it is like them"
    )
    return [
        MissingPart(
            reason,
            "references made by `unlearn references`, whose lineages say what they were trained on",
        )
    ]


def _outcome(findings: _Findings) -> tuple[Outcome, list[str]]:
    """Apply the rules of `decide`."""
    facts, control, negative = findings.gates
    if facts.passed is False:
        return "INCONCLUSIVE", [f"{facts.gate} {facts.words}"]
    if findings.tier == "A" and negative.passed is False:
        unproven = [each.reason for each in findings.missing]
        return "INCONCLUSIVE", [f"{negative.gate} {negative.words}", *unproven]
    membership = findings.membership
    parts: list[Extracted | Utility | Exposure] = [findings.extraction, findings.utility]
    parts += [] if findings.exposure is None else [findings.exposure]
    trusted = findings.tier != "C" or negative.passed is True
    failed = [_where(probe) for probe in membership.probes if probe.failed] if trusted else []
    undecided = []
    if failed and findings.recipe:
        undecided, failed = [_another_recipe(findings.recipe)], []
    failed += [claim.words for claim in findings.claims if claim.failed]
    failed += [part.words for part in parts if part.outcome == "FAIL"]
    if failed:
        return "FAIL", failed
    probes = [*membership.probes, *findings.claims]
    undecided += [] if control.passed else [f"{control.gate} {control.words}"]
    if not trusted:
        undecided.append(f"{negative.gate} {negative.words}")
    undecided += [_where(probe) for probe in probes if not probe.passed]
    undecided += [part.words for part in parts if part.outcome != "PASS"]
    undecided += [each.reason for each in findings.missing]
    if undecided:
        return "INCONCLUSIVE", [*undecided, *membership.notes]
    passed = [*map(_where, _furthest(probes)), *(part.words for part in parts)]
    return "PASS", [*passed, *membership.notes]


def _another_recipe(settings: Sequence[str]) -> str:
    """Say why a difference from the references is no trace of the records."""
    return (
        "the references were trained otherwise than the audited model, which by its lineage never "
        f"saw the records ({', '.join(settings)}): what sets it apart may be the recipe"
    )


def _furthest(probes: Sequence[ProbeResult]) -> list[ProbeResult]:
    """Return of each probe the form of the model in which it is nearest to its limit."""
    by_probe: dict[str, list[ProbeResult]] = {}
    for result in probes:
        by_probe.setdefault(result.probe, []).append(result)
    return [max(results, key=_use_of_room) for results in by_probe.values()]


def _use_of_room(result: ProbeResult) -> float:
    """Return which part of the way to its limit a probe that passed has gone."""
    if None in (result.value, result.low, result.high):
        return 0.0
    assert result.value is not None
    assert result.low is not None
    assert result.high is not None
    middle = result.reference_mean if result.reference_mean is not None else 0.5
    end = result.high if result.value >= middle else result.low
    return (result.value - middle) / (end - middle) if end != middle else 0.0


def _where(result: ProbeResult) -> str:
    """Say what a probe found, and in which form of the model."""
    form = "" if result.deployment == "as-is" else f"{result.deployment}: "
    return form + result.words


def _advice(evidence: Evidence, policy: Policy, findings: _Findings) -> list[str]:
    """Say what would decide, beside the states that are missing."""
    _, control, _ = findings.gates
    text = []
    if _holdout(evidence) == 0:
        text.append("records that no model ever saw: pass --holdout to the audit")
    if control.passed is None and "before" not in evidence.plain:
        text.append("the model before: pass --before to the audit")
    if control.passed is False:
        text.append("a stronger probe in the policy: these do not detect the records even before")
    if findings.recipe:
        text.append("references made like the audited model: `unlearn references --like` it")
    text += findings.membership.would_decide
    if findings.extracted.alone:
        text.append(
            "more references: the more of them never give a record away, the fewer records that "
            "only the audited model gives away are enough to FAIL"
        )
    if findings.tier != "A":
        have = len(evidence.references)
        text.append(
            f"{policy.min_references} references retrained without the records (there are {have})"
        )
    if policy.epsilon is not None and (evidence.twins is None or not evidence.twins.randomised):
        text.append("canaries, of which a coin included one of each pair, to test the claimed ε")
    utility = findings.utility
    if utility.outcome == "INCONCLUSIVE" and utility.value is not None:
        text.append("more kept records, of 10 or more subjects if they have any, for the utility")
    return text


def _holdout(evidence: Evidence) -> int:
    part = evidence.plain["after"].get("holdout")
    return part.records if part is not None else 0


def _sizes(evidence: Evidence) -> tuple[int, int | None, int, int, int, int]:
    """Return what `power_statement` asks: records, subjects, twins, references, people."""
    twins = _holdout(evidence)
    labels = evidence.subjects.get("holdout") or [None] * twins
    known = {label for label in labels if label is not None}
    subjects = evidence.subject_count
    if known and (evidence.one_subject or (subjects or 0) < evidence.forget.records):
        twins = len(known) + sum(label is None for label in labels)
    references, partial = len(evidence.references), len(evidence.part_trained)
    people = len(unseen_groups(evidence.forget_subjects, labels))
    return evidence.forget.records, subjects, twins, references, partial, people
