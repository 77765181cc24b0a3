"""Tones by hand: shown and not forgotten are what a verdict says, and everything else is open."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from unlearn.errors import OptionError
from unlearn_eval.verdict.decision import Extracted, Gate, ProbeResult, Utility, Verdict
from unlearn_eval.verdict.result import Exposure
from unlearn_eval.verdict.tone import Tones, judged, least, sign, tone_of, tones_of

from .cases import policy

OUTCOMES = {"PASS": "shown", "FAIL": "not forgotten", "INCONCLUSIVE": "open"}


def probed(*, passed: bool = False, failed: bool = False) -> ProbeResult:
    return ProbeResult("loss", "", 0.5, 0.4, 0.6, passed, failed, "")


def verdict(
    outcome: Any = "PASS",
    tier: Any = "A",
    gates: dict[str, bool | None] | None = None,
    probes: Any = None,
    parts: tuple[Any, Any, Any] = ("PASS", "PASS", "PASS"),
) -> Verdict:
    """A verdict with outcomes of extraction, utility and exposure, None where there is none."""
    extraction, utility, exposure = parts
    controls: dict[str, bool | None] = {"G0": True, "G1": True, "G2": True} | (gates or {})
    return Verdict(
        outcome=outcome,
        tier=tier,
        reasons=[],
        would_decide=[],
        policy={},
        gates=[Gate(name, passed, "") for name, passed in controls.items()],
        probes=[probed(passed=True)] if probes is None else probes,
        extraction=None if extraction is None else Extracted(1, 0.5, 0, 0, 1, "", extraction),
        utility=None if utility is None else Utility(0.0, 0.0, 0.0, 0.1, "", utility),
        power="",
        exposure=None if exposure is None else Exposure(0, 0, 1, "", exposure),
    )


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_each_part_has_the_tone_of_its_own_outcome(outcome: str) -> None:
    tone, well = OUTCOMES[outcome], "shown"
    assert tones_of(verdict(outcome)) == Tones(tone, well, well, well, well)  # type: ignore[arg-type]
    for i, part in enumerate(("extraction", "utility", "exposure")):
        parts: Any = ["PASS"] * 3
        parts[i] = outcome
        found = tones_of(verdict(parts=parts))
        assert getattr(found, part) == tone
        assert found == replace(tones_of(verdict()), **{part: tone})  # type: ignore[arg-type]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_of_a_replay_alone_every_part_has_the_tone_of_the_whole(outcome: str) -> None:
    tone = OUTCOMES[outcome]
    given = verdict(outcome, "E", {"G1": False}, [], (None, None, None))
    assert tones_of(given) == Tones(tone, tone, tone, tone, None)  # type: ignore[arg-type]
    # beside an audit, what the probes say of membership does not count
    both = verdict(outcome, "E", {"G2": False}, [probed(failed=True)], ("PASS", "FAIL", None))
    assert tones_of(both) == Tones(tone, tone, "shown", "not forgotten", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tier", "gates", "all_open"),
    [
        ("A", {"G0": False}, True),
        ("C", {"G0": False}, True),
        ("A", {"G0": None}, False),
        ("A", {"G2": False}, True),
        ("A", {"G2": None}, False),
        ("B", {"G2": False}, False),
        ("C", {"G2": False}, False),
    ],
)
def test_no_part_is_told_where_files_or_references_do_not_hold(
    tier: str, gates: dict[str, bool | None], all_open: bool
) -> None:
    for outcome in ("PASS", "FAIL"):
        parts = (outcome, outcome, outcome)
        found = tones_of(verdict(outcome, tier, gates, parts=parts))
        assert (found.extraction == found.utility == found.exposure == "open") is all_open
        assert (found.whole == "open") is all_open
        if all_open:
            assert found == Tones("open", "open", "open", "open", "open")
            without = tones_of(verdict(outcome, tier, gates, parts=(outcome, outcome, None)))
            assert without == Tones("open", "open", "open", "open", None)


PASSED, FAILED, NEITHER = probed(passed=True), probed(failed=True), probed()


@pytest.mark.parametrize(
    ("tier", "gates", "probes", "tone"),
    [
        ("A", {}, [PASSED, PASSED], "shown"),
        ("A", {}, [PASSED, NEITHER], "open"),
        ("A", {}, [PASSED, FAILED], "not forgotten"),
        ("A", {}, [NEITHER, FAILED], "not forgotten"),
        ("A", {}, [], "open"),
        # without a positive control passing means nothing, and failing all the same
        ("A", {"G1": None}, [PASSED], "open"),
        ("A", {"G1": False}, [PASSED], "open"),
        ("B", {"G1": None}, [FAILED], "not forgotten"),
        # without a negative control twins mean nothing
        ("C", {"G2": False}, [FAILED], "open"),
        ("C", {"G2": None}, [PASSED], "open"),
        ("C", {}, [FAILED], "not forgotten"),
        ("C", {}, [PASSED], "shown"),
        ("B", {"G2": None}, [PASSED], "shown"),
        ("A", {"G2": None}, [PASSED], "shown"),
    ],
)
def test_membership_sums_its_probes_up(
    tier: str, gates: dict[str, bool | None], probes: list[ProbeResult], tone: str
) -> None:
    assert tones_of(verdict("INCONCLUSIVE", tier, gates, probes)).membership == tone


def test_the_worst_tone_and_its_sign() -> None:
    assert least(["shown", "open"]) == least([]) == "open"
    assert least(["shown"]) == "shown"
    assert least(["open", "not forgotten", "shown"]) == "not forgotten"
    assert {tone: sign(tone) for tone in ("not forgotten", "open", "shown", "plain")} == {
        "not forgotten": "✕",
        "open": "?",
        "shown": "✓",
        "plain": "",
    }
    assert tone_of("pass") == "open"


def test_an_audit_in_memory_is_judged_by_its_own_policy(
    five: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, own = five(), policy(alpha=0.03)
    monkeypatch.setattr("unlearn_eval.verdict.load.evidence_of", lambda audit: given)

    def judge(stored: Any) -> tuple[Any, ...]:
        found = judged(SimpleNamespace(policy=stored))  # type: ignore[arg-type]
        return found.policy["name"], found.policy["content"]["alpha"], found.policy["chosen"]

    stored = {"name": "mine", "content": own.content, "sha256": own.sha256}
    assert judge(stored) == ("mine", 0.03, "before")
    assert judge({**stored, "seen": False}) == ("mine", 0.03, "before")
    # one that was named after somebody had looked, or by nobody before
    assert judge({**stored, "seen": True}) == ("mine", 0.03, "after")
    assert judge(None) == ("standard", 0.05, "after")
    assert judge({"content": own.content})[0] == ""
    for nothing in ({}, {"content": None}):
        with pytest.raises(OptionError, match="the audit's policy"):
            judge(nothing)
