"""Verdicts on the audits of a comparison: decided once, kept beside the audit, and read after that.

Nothing heavy is imported for a verdict that is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn import __version__
from unlearn.apps.compare.layout import Step
from unlearn.errors import UnlearnError
from unlearn.files import staged_file
from unlearn.strict_json import read_json_file
from unlearn_eval.comparison import Ruling

if TYPE_CHECKING:
    from unlearn_eval.verdict.decision import Evidence, Policy, Verdict

__all__ = ["ruling_of", "rulings_before"]

_KEPT = "verdict.json"
_SCHEMA = 2


def ruling_of(step: Step) -> Ruling:
    """Return the verdict on the model that a step has audited.

    Args:
        step: an audit that is done, run with a policy.

    Returns:
        The verdict; without an outcome where none can be reached, with the reason.
    """

    def judge(audit: Path) -> list[Ruling]:
        from unlearn_eval.verdict.verify import verify

        return [_ruling(verify(audit))]

    return _decided(step, judge)[0]


def rulings_before(step: Step) -> tuple[Ruling, list[Ruling]]:
    """Return the verdicts on the model before unlearning and on each reference.

    The model before should FAIL, and is its own control. Each reference is judged as if it were an
    unlearned model, the others being its references: what FAILs there is a false alarm. Where
    references decide on the cells (tier A), they do here, though one fewer; where there are too few
    of them for that, references are judged by unseen records, as the cells are.

    Args:
        step: the audit of the model before beside its references, done, run with a policy.

    Returns:
        The verdict on the model before; those on the references, in their order, none where they
        could not be judged.
    """
    first, *others = _decided(step, _judge_before)
    return first, others


def _judge_before(audit: Path) -> list[Ruling]:
    from unlearn_eval.verdict.load import load_evidence, read_audit
    from unlearn_eval.verdict.policy import policy_of

    stored = read_audit(audit)["policy"]
    policy = policy_of(stored["content"], f"{audit}, policy")
    evidence = _with_itself_before(load_evidence(audit))
    return [_ruling(v) for v in _verdicts(evidence, policy)]


def _verdicts(evidence: Evidence, policy: Policy) -> list[Verdict]:
    from unlearn_eval.verdict.decision import decide, leave_one_out

    first = decide(evidence, policy)
    if len(evidence.references) >= policy.min_references:
        return [first, *leave_one_out(evidence, policy).verdicts]
    return [first, *(decide(evidence.as_audited(name), policy) for name in evidence.references)]


def _with_itself_before(evidence: Evidence) -> Evidence:
    """Call the audited model the one before, too: here it is."""
    views = dict(evidence.views)
    view, scores = next(iter(views.items()))  # the first is the models as they are
    views[view] = {**scores, "before": scores["after"]}
    return replace(evidence, views=views)


def _ruling(verdict: Verdict) -> Ruling:
    return Ruling(
        verdict.outcome, verdict.tier, tuple(verdict.reasons), tuple(verdict.would_decide)
    )


def _decided(step: Step, judge: Any) -> Sequence[Ruling]:
    """Return what was decided from this audit before, or decide and keep it."""
    file = step.folder / _KEPT
    of = {
        "schema": _SCHEMA,
        "version": __version__,
        "audit": hashlib.sha256((step.result / "audit.json").read_bytes()).hexdigest(),
    }
    try:
        content = read_json_file(file)
        if {key: content.get(key) for key in of} == of:
            return [_read(one) for one in content["verdicts"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # none, or not whole: decided again
    try:
        rulings = judge(step.result)
    except UnlearnError as error:
        return [Ruling(reasons=(str(error),))]
    with staged_file(file) as stage:
        text = json.dumps({**of, "verdicts": [asdict(one) for one in rulings]}, indent=1)
        stage.write_text(text + "\n", encoding="utf-8")
    return list(rulings)


def _read(content: Mapping[str, Any]) -> Ruling:
    return Ruling(
        content["outcome"],
        content["tier"],
        tuple(content["reasons"]),
        tuple(content["would_decide"]),
    )
