"""Note an audit in the log of looks, before it computes a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unlearn.provenance.eligibility import unfit
from unlearn.provenance.keys import Key
from unlearn.provenance.looks import History, Look, LookLog, Scope, request_digest
from unlearn_eval.audit.states import States
from unlearn_eval.scores.processes import from_first

__all__ = ["note_of", "register_look"]


def register_look(states: States, policy: str | None, scope: Scope) -> History:
    """Note that a model is looked at, and return how often its request was.

    Of several processes the first does it. Only those references are noted as eligible that by
    their lineages never saw the records and were trained as the audited model was: leaving others
    out takes nothing away.

    Args:
        states: of the audit.
        policy: digest of the policy; None for an audit without one.
        scope: what the audit is for.

    Returns:
        The look among all at the same request.
    """
    return from_first(lambda: _register(states, policy, scope))


def _register(states: States, policy: str | None, scope: Scope) -> History:
    key, facts = Key.load(), states.lineage_facts
    references = facts.references.values()
    eligible = [each for each in references if _eligible(each)]
    kept = facts.records["kept"]
    look = Look(
        request=request_digest(key, facts.records["forget"]),
        model=states.unlearned.digest(),
        form=key.mac(b"unlearn form\0" + "\n".join(states.stack_digests()).encode()),
        references=_weights(references),
        policy=policy or "",
        scope=scope,
        eligible=_weights(eligible),
        partial=_weights([each for each in eligible if each["kept"] < kept]),
        origins=facts.origins,
    )
    return LookLog(key).register(look)


def _eligible(facts: Mapping[str, Any]) -> bool:
    """Say whether a lineage shows that a reference is what it stands for."""
    if facts["saw"] != 0 or not facts["from_base"]:
        return False
    return unfit(facts["from_base"], facts["surplus"], facts["otherwise"]) is None


def _weights(references: Any) -> tuple[str, ...]:
    return tuple(sorted({str(each["weights"]) for each in references}))


def note_of(history: History) -> tuple[str, ...]:
    """Say where the log does not hold, and what to do.

    Args:
        history: of the look.

    Returns:
        One sentence or none.
    """
    return {
        "holds": (),
        "broken": (
            "the log of looks (looks.jsonl in the toolkit's home) does not hold: lines were "
            "changed, moved or cut off, so how many models were tried is not known; move it and "
            "looks.head aside to begin anew",
        ),
        "none": (
            "the log of looks (looks.jsonl in the toolkit's home) cannot be written: how many "
            "models were tried for this request is not known",
        ),
    }[history.log]
