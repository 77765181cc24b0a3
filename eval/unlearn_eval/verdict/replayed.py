"""A verdict from a replay: deletion by construction, with no statistics (tier E)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearn.errors import LineageError
from unlearn_eval.certificate.policies import content_hash
from unlearn_eval.replay.result import FILE, read_replay
from unlearn_eval.verdict.result import Gate, Outcome, Verdict

__all__ = ["REPLAY_POLICY", "beside_audit", "decided_by_replay", "with_replay"]

REPLAY_POLICY: Mapping[str, Any] = {
    "tier": "E",
    "weights": "equal, bit by bit; elsewhere apart by at most 0.01 of what two seeds are",
    "records": "all that were trained on, and none of the forgotten ones",
}
"""The rule of a replay, which leaves nothing to choose."""


def decided_by_replay(path: str | Path, created: str) -> Verdict:
    """Decide by a replay alone.

    Args:
        path: `replay.json`, or its folder.
        created: ISO time of the verdict.

    Returns:
        The verdict.

    Raises:
        DataError: if there is no such file, or it is something else.
    """
    content = read_replay(path)
    found = content["outcome"] == "PASS"
    return Verdict(
        outcome=content["outcome"],
        tier="E",
        reasons=[_sentence(content)],
        would_decide=[] if found else _would_decide(content),
        policy={
            "name": "replay",
            "sha256": content_hash(REPLAY_POLICY),
            "chosen": "before",
            "content": dict(REPLAY_POLICY),
        },
        gates=_gates(content),
        probes=[],
        extraction=None,
        utility=None,
        power="no statistics: one record is decided like a thousand",
        counts={
            "forget": len(content["records"]["forgotten"]),
            "holdout": None,
            "subjects": None,
            "references": None,
        },
        created=created,
        replay=_facts(path, content),
    )


def beside_audit(replayed: Outcome, audited: Outcome) -> Outcome:
    """Decide by the outcomes of a replay and of an audit.

    A replay that PASSes decides, unless the audit FAILs; one that FAILs decides; one that is
    INCONCLUSIVE leaves the audit's outcome as it is.
    """
    if replayed == "INCONCLUSIVE":
        return audited
    return "INCONCLUSIVE" if replayed == "PASS" and audited == "FAIL" else replayed


def with_replay(verdict: Verdict, path: str | Path, audited: Mapping[str, Any]) -> Verdict:
    """Decide by a replay beside an audit of the same adapter and records.

    A replay that PASSes decides, unless the audit FAILs: then the adapter never saw the records and
    shows them all the same, and somebody must look where it learned them. A replay that FAILs
    decides, too. One that is INCONCLUSIVE leaves the audit's verdict as it is.

    Args:
        verdict: the audit's.
        path: `replay.json`, or its folder.
        audited: the content of `audit.json`.

    Returns:
        The verdict on both.

    Raises:
        DataError: if there is no such replay.
        LineageError: if it is of another adapter or of other records than the audit.
    """
    content = read_replay(path)
    _same_story(content, audited)
    gates = [*_gates(content), *verdict.gates]
    facts = _facts(path, content)
    if content["outcome"] == "INCONCLUSIVE":
        reasons = [*verdict.reasons, f"the replay decides nothing: {content['words']}"]
        return replace(verdict, reasons=reasons, gates=gates, replay=facts)
    reasons = [_sentence(content), *(f"the audit: {words}" for words in verdict.reasons)]
    if content["outcome"] == "FAIL":
        return replace(
            verdict, outcome="FAIL", tier="E", reasons=reasons, gates=gates, replay=facts
        )
    outcome = beside_audit(content["outcome"], verdict.outcome)
    would_decide = (
        [
            "it never saw the records and shows them all the same: look for kept records that say "
            "the same in other words, and at what the base knows"
        ]
        if outcome == "INCONCLUSIVE"
        else []
    )
    return replace(
        verdict,
        outcome=outcome,
        tier="E",
        reasons=reasons,
        would_decide=would_decide,
        gates=gates,
        replay=facts,
    )


def _same_story(content: Mapping[str, Any], audited: Mapping[str, Any]) -> None:
    """Refuse a replay of another adapter, or one that says nothing of the audited records."""
    measured = audited["states"].get("after")
    if measured != content["adapter"]["weights"]:
        raise LineageError(
            f"the replay is of {content['adapter']['weights']}, and the audit measured {measured}: "
            "replay the adapter that was audited"
        )
    named = audited.get("records") or {}
    if named.get("key_id") != content["records"]["key_id"]:
        return
    strange = set(named.get("forget") or ()) - set(content["records"]["forgotten"])
    if strange:
        raise LineageError(
            f"{len(strange)} of the audited records are not among those that the replay shows to "
            "be forgotten"
        )


def _sentence(content: Mapping[str, Any]) -> str:
    return str(content["words"])


def _would_decide(content: Mapping[str, Any]) -> list[str]:
    open_ = [each["what"] for each in content["findings"] if each["passed"] is not True]
    return [f"a replay in which {' and '.join(open_)} hold, or an audit with references"]


def _gates(content: Mapping[str, Any]) -> list[Gate]:
    return [Gate(each["what"], each["passed"], each["words"]) for each in content["findings"]]


def _facts(path: str | Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a verdict and a certificate keep of a replay."""
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    return {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "created": content["created"],
        "outcome": content["outcome"],
        "kind": content["kind"],
        "weights": content["adapter"]["weights"],
        "lineage": content["adapter"]["lineage"],
        "differ": list(content["environment"].get("differ") or ()),
        "not_looked_at": list(content["not_looked_at"]),
    }
