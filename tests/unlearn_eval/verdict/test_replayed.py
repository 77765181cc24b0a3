"""Verdicts from a replay's file, by itself and beside an audit of the same story."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from unlearn.errors import DataError, LineageError
from unlearn_eval.certificate.policies import content_hash
from unlearn_eval.verdict.decision import Gate, Verdict
from unlearn_eval.verdict.replayed import REPLAY_POLICY, decided_by_replay, with_replay

WEIGHTS = "sha256:" + "1" * 64

FINDINGS = [
    {"what": "weights", "passed": True, "words": "they are equal", "damning": False},
    {"what": "records", "passed": None, "words": "they are those", "damning": False},
    {"what": "near-copies", "passed": False, "words": "one is left", "damning": True},
]


def written(folder: Path, outcome: str = "PASS", **changed: Any) -> dict[str, Any]:
    """Write a replay of two forgotten records."""
    content = {
        "schema": 1,
        "created": "2026-01-02T03:04:05Z",
        "outcome": outcome,
        "kind": "exact" if outcome == "PASS" else None,
        "findings": FINDINGS,
        "not_looked_at": ["what nearly repeats them"],
        "adapter": {"weights": WEIGHTS, "lineage": "sha256:" + "2" * 64},
        "records": {"key_id": "mine", "trained": 10, "forgotten": ["aa", "bb"]},
        "environment": {"differ": ["torch"]},
        "words": "training again gave the same weights",
    } | changed
    (folder / "replay.json").write_text(json.dumps(content), encoding="utf-8")
    return content


def audited(**changed: Any) -> dict[str, Any]:
    """What an audit says of the same adapter and of one of its records."""
    return {
        "states": {"base": "sha256:" + "0" * 64, "after": WEIGHTS},
        "records": {"key_id": "mine", "forget": ["bb"]},
    } | changed


def by_audit(outcome: Any = "INCONCLUSIVE") -> Verdict:
    return Verdict(
        outcome=outcome,
        tier="C",
        reasons=["too few twins", "too few records"],
        would_decide=["more of them"],
        policy={"name": "standard"},
        gates=[Gate("G1", None, "no model before")],
        probes=[],
        extraction=None,
        utility=None,
        power="little",
        counts={"forget": 1},
        created="then",
    )


GATES = [Gate(each["what"], each["passed"], each["words"]) for each in FINDINGS]  # type: ignore[arg-type]


def test_a_replay_that_passes_decides_alone(tmp_path: Path) -> None:
    written(tmp_path)
    found = decided_by_replay(tmp_path, "now")
    assert (found.outcome, found.tier, found.created) == ("PASS", "E", "now")
    assert list(found.reasons) == ["training again gave the same weights"]
    assert list(found.would_decide) == []
    assert list(found.gates) == GATES
    assert (list(found.probes), found.extraction, found.utility, found.exposure) == (
        [],
        None,
        None,
        None,
    )
    # the rule was there before, and leaves nothing to choose
    assert found.policy == {
        "name": "replay",
        "sha256": content_hash(REPLAY_POLICY),
        "chosen": "before",
        "content": dict(REPLAY_POLICY),
    }
    assert found.counts == {"forget": 2, "holdout": None, "subjects": None, "references": None}
    assert found.power == "no statistics: one record is decided like a thousand"


def test_what_a_verdict_keeps_of_a_replay(tmp_path: Path) -> None:
    written(tmp_path)
    facts = {
        "sha256": hashlib.sha256((tmp_path / "replay.json").read_bytes()).hexdigest(),
        "created": "2026-01-02T03:04:05Z",
        "outcome": "PASS",
        "kind": "exact",
        "weights": WEIGHTS,
        "lineage": "sha256:" + "2" * 64,
        "differ": ["torch"],
        "not_looked_at": ["what nearly repeats them"],
    }
    assert decided_by_replay(tmp_path, "").replay == facts
    assert decided_by_replay(tmp_path / "replay.json", "").replay == facts
    assert with_replay(by_audit(), tmp_path, audited()).replay == facts
    written(tmp_path, environment={"differ": None})
    replay = decided_by_replay(tmp_path, "").replay
    assert replay is not None
    assert replay["differ"] == []


def test_a_replay_that_does_not_pass_says_what_would_have_to_hold(tmp_path: Path) -> None:
    for outcome in ("INCONCLUSIVE", "FAIL"):
        written(tmp_path, outcome)
        found = decided_by_replay(tmp_path, "now")
        assert found.outcome == outcome
        # what could not be looked at stands open like what does not hold
        assert list(found.would_decide) == [
            "a replay in which records and near-copies hold, or an audit with references"
        ]


@pytest.mark.parametrize(
    ("replayed", "audit", "outcome", "tier"),
    [
        ("PASS", "PASS", "PASS", "E"),
        ("PASS", "INCONCLUSIVE", "PASS", "E"),
        # it never saw the records and shows them all the same
        ("PASS", "FAIL", "INCONCLUSIVE", "E"),
        ("FAIL", "PASS", "FAIL", "E"),
        ("FAIL", "FAIL", "FAIL", "E"),
        ("INCONCLUSIVE", "PASS", "PASS", "C"),
        ("INCONCLUSIVE", "FAIL", "FAIL", "C"),
        ("INCONCLUSIVE", "INCONCLUSIVE", "INCONCLUSIVE", "C"),
    ],
)
def test_a_replay_beside_an_audit(
    tmp_path: Path, replayed: str, audit: str, outcome: str, tier: str
) -> None:
    written(tmp_path, replayed)
    found = with_replay(by_audit(audit), tmp_path, audited())
    assert (found.outcome, found.tier) == (outcome, tier)
    assert list(found.gates) == [*GATES, *by_audit().gates]
    # the rest is the audit's
    assert (found.policy, found.power, found.counts, found.created) == (
        {"name": "standard"},
        "little",
        {"forget": 1},
        "then",
    )
    words = "training again gave the same weights"
    if replayed == "INCONCLUSIVE":
        assert list(found.reasons) == [
            "too few twins",
            "too few records",
            f"the replay decides nothing: {words}",
        ]
    else:
        assert list(found.reasons) == [
            words,
            "the audit: too few twins",
            "the audit: too few records",
        ]
    if (replayed, audit) == ("PASS", "FAIL"):
        (advice,) = found.would_decide
        assert "look for kept records that say the same in other words" in advice
    else:
        assert list(found.would_decide) == ([] if replayed == "PASS" else ["more of them"])


def test_a_replay_of_another_adapter_is_refused(tmp_path: Path) -> None:
    written(tmp_path, adapter={"weights": "sha256:" + "9" * 64, "lineage": None})
    with pytest.raises(LineageError, match=r"is of sha256:999.* measured sha256:111.*: replay the"):
        with_replay(by_audit(), tmp_path, audited())
    with pytest.raises(LineageError, match="measured None"):
        with_replay(by_audit(), tmp_path, audited(states={}))


def test_a_replay_must_show_all_audited_records_forgotten(tmp_path: Path) -> None:
    written(tmp_path)
    both = audited(records={"key_id": "mine", "forget": ["aa", "bb"]})
    assert with_replay(by_audit(), tmp_path, both).outcome == "PASS"
    more = audited(records={"key_id": "mine", "forget": ["aa", "cc", "dd"]})
    with pytest.raises(LineageError, match="^2 of the audited records are not among those"):
        with_replay(by_audit(), tmp_path, more)
    # names under another key say nothing of these
    other = audited(records={"key_id": "another", "forget": ["cc"]})
    assert with_replay(by_audit(), tmp_path, other).outcome == "PASS"
    for nothing in ({"records": None}, {"records": {"key_id": "mine", "forget": None}}):
        assert with_replay(by_audit(), tmp_path, audited(**nothing)).outcome == "PASS"


def test_no_replay_decides_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        decided_by_replay(tmp_path, "")
    with pytest.raises(DataError, match="cannot be read"):
        with_replay(by_audit(), tmp_path, audited())
