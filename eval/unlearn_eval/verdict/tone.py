"""Which tone the words about a deletion may have: what a verdict shows, and no more than that.

Whatever tells a person how a deletion went (terminal, audit page, story, comparison, certificate)
takes its tone from here. *Shown* is a PASS: equivalence was shown, by the verdict's own rule. *Not
forgotten* is a FAIL. Everything else is *open*: that nothing was found shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from unlearn_eval.results.audit_result import Audit
    from unlearn_eval.verdict.result import Extracted, Utility, Verdict

__all__ = ["MARKS", "TONES", "Tone", "Tones", "judged", "least", "sign", "tone_of", "tones_of"]

Tone = Literal["not forgotten", "open", "shown"]

TONES: tuple[Tone, ...] = ("not forgotten", "open", "shown")
"""From the worst to the best."""

MARKS: dict[str, str] = {"not forgotten": "✕", "open": "?", "shown": "✓"}
"""A sign for each tone, for readers who see no colours."""

_TONE_OF: dict[str, Tone] = {"PASS": "shown", "FAIL": "not forgotten"}


@dataclass(frozen=True)
class Tones:
    """The tone of a verdict, and of each of the questions that it answers.

    Attributes:
        whole: of the deletion.
        membership: whether anybody can tell that the model once saw the records.
        extraction: whether the records come out of it.
        utility: whether it still knows the rest.
        exposure: whether it gives away more of the rest than models do that never saw the forgotten
            records; None where that was not examined.
    """

    whole: Tone
    membership: Tone
    extraction: Tone
    utility: Tone
    exposure: Tone | None


def tone_of(outcome: str) -> Tone:
    """Return the tone of an outcome: PASS is shown, FAIL is not forgotten, all else is open."""
    return _TONE_OF.get(outcome, "open")


def least(tones: Iterable[Tone]) -> Tone:
    """Return the worst of some tones; open where there is none."""
    return min(tones, key=TONES.index, default="open")


def sign(tone: str) -> str:
    """Return the sign of a tone; empty for what is none."""
    return MARKS.get(tone, "")


def tones_of(verdict: Verdict) -> Tones:
    """Return the tone of a verdict and of its parts.

    A part follows its own outcome, and membership its probes: shown if every one passed and the
    controls hold without which that means nothing, not forgotten if one failed. Where the files are
    not of one story (G0), or the references are copies (G2), all parts are open, and so is
    membership where records that no model saw are told apart (G2) and nothing better stands for
    models that never saw the records.
    """
    gates = {gate.gate: gate.passed for gate in verdict.gates}
    copies = verdict.tier == "A" and gates.get("G2") is False
    if gates.get("G0") is False or copies:
        return Tones("open", "open", "open", "open", None if verdict.exposure is None else "open")
    return Tones(
        tone_of(verdict.outcome),
        _membership(verdict, gates),
        _part(verdict, verdict.extraction),
        _part(verdict, verdict.utility),
        None if verdict.exposure is None else tone_of(verdict.exposure.outcome),
    )


def _part(verdict: Verdict, part: Extracted | Utility | None) -> Tone:
    """Return the tone of a part; of a replay without an audit, which has none, of the whole."""
    return tone_of(verdict.outcome if part is None else part.outcome)


def _membership(verdict: Verdict, gates: dict[str, bool | None]) -> Tone:
    """Sum the membership probes up; of a replay, which needs none, take the whole."""
    if verdict.tier == "E":
        return tone_of(verdict.outcome)
    if verdict.tier == "C" and not gates.get("G2"):
        return "open"
    if any(probe.failed for probe in verdict.probes):
        return "not forgotten"
    passed = bool(verdict.probes) and all(probe.passed for probe in verdict.probes)
    return "shown" if passed and gates.get("G1") else "open"


def judged(audit: Audit) -> Verdict:
    """Decide on the scores of an audit in memory, as `verify` does on its folder.

    The policy is the one that the audit was run with, or else the default one.

    Args:
        audit: the audit.

    Returns:
        The verdict.

    Raises:
        DataError: if the audit has no scores to judge, or lacks the sampler of the policy.
        OptionError: if the audit's policy is none.
    """
    from unlearn_eval.verdict.decision import decide
    from unlearn_eval.verdict.load import evidence_of
    from unlearn_eval.verdict.policy import DEFAULT, load_policy, policy_of

    stored = audit.policy
    if stored is None:
        name, policy = load_policy(DEFAULT)
    else:
        name = str(stored.get("name", ""))
        policy = policy_of(stored.get("content") or {}, "the audit's policy")
    fixed = stored is not None and not stored.get("seen")
    return decide(evidence_of(audit), policy, name=name, chosen="before" if fixed else "after")
