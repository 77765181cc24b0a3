"""What a verdict says, in the form that files and certificates hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from unlearn_eval.verdict.policy import AS_IS, VERBATIM

__all__ = [
    "Exposure",
    "Extracted",
    "Gate",
    "Outcome",
    "ProbeResult",
    "TierJudgement",
    "Utility",
    "Verdict",
]

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Gate:
    """A control without which a verdict means nothing.

    Attributes:
        gate: `G0` (files belong together), `G1` (the model before can be told apart), `G2` (what
            never saw the records cannot).
        passed: None where it could not be, or need not be, checked.
        words: what was found.
    """

    gate: str
    passed: bool | None
    words: str


@dataclass(frozen=True)
class ProbeResult:
    """One membership probe in one form of the model.

    Attributes:
        probe: its name.
        statistic: what `value` is.
        value: of the audited model; None where it has none.
        low: lower end, of what passes with references, of the interval otherwise.
        high: upper end.
        passed: shown equivalent.
        failed: shown different.
        words: what was found.
        deployment: the form of the model.
        prompt_state: how records were asked for.
        reference_mean: mean of the statistic over references, None without.
        reference_sd: their standard deviation.
        k: how many there are.
    """

    probe: str
    statistic: str
    value: float | None
    low: float | None
    high: float | None
    passed: bool
    failed: bool
    words: str
    deployment: str = AS_IS
    prompt_state: str = VERBATIM
    reference_mean: float | None = None
    reference_sd: float | None = None
    k: int = 0


@dataclass(frozen=True)
class Extracted:
    """Extraction at the policy's (n, p) over all declared states.

    Attributes:
        n: tries.
        p: probability.
        extracted: records that the audited model gives away in some state.
        reference_extracted: records that what never saw them gives away in some state.
        records: how many there are.
        words: what was found.
        outcome: `FAIL` if more records come out that no model without them gives away in that state
            than chance explains; fewer of them are `INCONCLUSIVE`.
    """

    n: int
    p: float
    extracted: int
    reference_extracted: int | None
    records: int
    words: str
    outcome: Outcome


@dataclass(frozen=True)
class Utility:
    """How much worse the kept records are predicted, in nats a token.

    Attributes:
        value: mean rise of the loss.
        low: lower limit at level 1 − 2α.
        high: upper limit.
        margin: of the policy.
        words: what was found.
        outcome: `PASS` if shown within the margin, `FAIL` if shown beyond.
    """

    value: float | None
    low: float | None
    high: float | None
    margin: float
    words: str
    outcome: Outcome


@dataclass(frozen=True)
class Exposure:
    """Whether the *kept* records come out more than in models that never saw the forgotten ones.

    Attributes:
        extracted: kept records that the audited model gives away.
        reference_extracted: the most that a reference gives away; None without references.
        records: how many there are.
        words: what was found.
        outcome: `FAIL` if more come out than the references explain, `PASS` if shown that they do
            not, `INCONCLUSIVE` without anything to compare with.
    """

    extracted: int
    reference_extracted: int | None
    records: int
    words: str
    outcome: Outcome


@dataclass(frozen=True)
class TierJudgement:
    """What one tier found.

    Attributes:
        probes: each probe in each audited form of the model.
        gates: `G1` and `G2`.
        would_decide: what to do about probes that are undecided.
        notes: what the decision rests on.
        kept: the place of the kept records' mean score among the references, where these can tell.
    """

    probes: Sequence[ProbeResult]
    gates: Sequence[Gate]
    would_decide: Sequence[str] = ()
    notes: Sequence[str] = ()
    kept: ProbeResult | None = None


@dataclass(frozen=True)
class Verdict:
    """The decision on one deletion request, with its reasons: aggregates only, no record.

    Attributes:
        outcome: PASS, FAIL or INCONCLUSIVE.
        tier: what stood for models that never saw the records: `A` references, `B` canaries, `C`
            never-trained twins; `E` nothing had to, as training again without the records gave the
            same weights.
        reasons: in plain words.
        would_decide: what would turn INCONCLUSIVE into a decision.
        policy: `name`, `sha256`, `chosen` (before or after the scores), `content`.
        gates: the controls.
        probes: membership.
        extraction: at the policy's (n, p); None without an audit.
        utility: of the kept records; None without an audit.
        exposure: of the kept records: whether deleting others made them easier to get out; None
            where none were audited.
        power: what could have been found, said before looking.
        counts: `forget`, `holdout`, `subjects` (None if unknown), `references`.
        audit_sha256: digest of `audit.json`, or empty.
        created: ISO time, or empty.
        replay: what a replay showed, if there was one: digests of `replay.json` and of what it is
            about, its outcome and kind, and what it leaves open.
    """

    outcome: Outcome
    tier: Literal["A", "B", "C", "E"]
    reasons: Sequence[str]
    would_decide: Sequence[str]
    policy: Mapping[str, Any]
    gates: Sequence[Gate]
    probes: Sequence[ProbeResult]
    extraction: Extracted | None
    utility: Utility | None
    power: str
    exposure: Exposure | None = None
    counts: Mapping[str, int | None] = field(default_factory=dict)
    audit_sha256: str = ""
    created: str = ""
    replay: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the content of `verdict.json`, schema 1: numbers that JSON has, or None."""
        plain = _plain(asdict(self))
        return {"schema": 1, **plain}


def _plain(value: Any) -> Any:
    """Return lists for tuples, and None for what JSON has no number for."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
