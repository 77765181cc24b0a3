"""No page, table or line is greener than the verdict on the same scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from unlearn_eval.comparison import Comparison, Outcome, Ruling, lines
from unlearn_eval.report import Attempt, audit_page, in_a_sentence, outcome
from unlearn_eval.report.audit.headline import headline
from unlearn_eval.report.audit.reading import Reading
from unlearn_eval.report.audit.summary import summary
from unlearn_eval.report.audit.words import answers
from unlearn_eval.report.comparison.methods import cell_of
from unlearn_eval.verdict.result import Exposure, Gate
from unlearn_eval.verdict.tone import TONES, judged, least, sign, tone_of, tones_of

OUTCOMES = {"PASS": "shown", "FAIL": "not forgotten", "INCONCLUSIVE": "open"}


def rank(tone):
    """Return how green a tone is; moot is grey and counts as open."""
    return TONES.index("open" if tone == "moot" else tone)


def audit_of(make_audit, n, k, after, kept, policy):
    """Build an audit of n records beside k references."""
    references = [f"reference:{i}" for i in range(k)]
    return make_audit(
        {"before": 0.0, "after": after, **dict.fromkeys(references, 3.0)},
        {"before": 0.3, "after": kept, **dict.fromkeys(references, 0.3)},
        dict.fromkeys(("before", "after", *references), 3.0),
        n=n,
        policy=policy,
    )


def check(audit):
    """Compare what every place says of an audit with the verdict on it."""
    verdict = judged(audit)
    whole, parts = OUTCOMES[verdict.outcome], tones_of(verdict)
    reading = Reading(audit)
    given = answers(reading)
    head = headline(reading, given)
    short = summary(audit).headline
    line = outcome([Attempt("way", "", audit, "")])[1]
    ruling = Ruling(verdict.outcome, verdict.tier, verdict.reasons, verdict.would_decide)
    cell = Outcome("way", 0, 0, {"gap": 0.0, "rise": 0.0}, ruling=ruling)
    row = lines(Comparison("one", [cell]))[0]
    said = [head.tone, short.tone, line.tone, row.tone, cell_of(cell, [])["tone"]]
    assert all(rank(tone) <= rank(whole) for tone in said), (said, whole)
    assert in_a_sentence(audit) == head.sentence
    for answer in given:
        if "get the records out" in answer.question:
            assert rank(answer.tone) <= rank(parts.extraction)
        elif "tell that the model" in answer.question:
            assert rank(answer.tone) <= rank(parts.membership)
        elif "everything else" in answer.question:
            assert rank(answer.tone) <= rank(least([parts.utility, parts.exposure or "shown"]))
    if "wins 100 of 100" in " ".join(answer.now for answer in given):
        assert "never saw them do" not in head.text
        assert "behaves like" not in head.text
    return head, whole


@settings(
    max_examples=16,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.integers(1, 40),
    st.integers(0, 8),
    st.sampled_from([0.0, 0.5, 2.0, 3.0, 3.0, 3.0, 4.0, 12.0]),
    st.sampled_from([0.0, 0.3, 0.3, 0.5, 9.0]),
    st.sampled_from(["quick", "standard", None]),
)
@example(2, 0, 0.3, 0.3, None)  # AUC near 1 on two records, and no verdict possible
@example(20, 8, 3.0, 0.3, "quick")
def test_nothing_is_greener_than_the_verdict(make_audit, n, k, after, kept, policy):
    check(audit_of(make_audit, n, k, after, kept, policy))


@pytest.mark.parametrize("k", [0, 2])
def test_two_records_that_are_plainly_known_are_never_green(make_audit, k):
    """Of 2 records an interval reaches whatever is asked, which shows nothing."""
    audit = audit_of(make_audit, 2, k, 0.9, 0.3, None)
    assert Reading(audit).game().wins > 0.9
    head, whole = check(audit)
    assert whole == "open"
    assert head.tone == "open"
    assert "5 references retrained without the records" in head.text


def test_the_tone_is_that_of_the_outcome():
    assert {outcome: tone_of(outcome) for outcome in OUTCOMES} == OUTCOMES
    assert tone_of("") == tone_of("pass") == "open"
    assert least(["shown", "open"]) == least([]) == "open"
    assert least(["shown", "open", "not forgotten"]) == "not forgotten"
    assert [sign(tone) for tone in (*TONES, "plain")] == ["✕", "?", "✓", ""]


def test_parts_follow_their_outcomes_and_controls(good, passes):
    verdict = passes(judged(good))
    assert set(vars(tones_of(replace(verdict, exposure=None))).values()) == {"shown", None}
    gates = {gate.gate: gate for gate in verdict.gates}

    def without(name, passed=False):
        changed = {**gates, name: Gate(name, passed, "")}
        return replace(verdict, gates=list(changed.values()))

    assert tones_of(without("G1")).membership == "open"
    assert tones_of(replace(without("G2"), tier="C")).membership == "open"
    copies = replace(without("G2"), exposure=None)  # of one model: nothing is known
    assert set(vars(tones_of(copies)).values()) == {"open", None}
    assert tones_of(without("G2", passed=None)).membership == "shown"  # no unseen people to ask
    exposed = replace(without("G0"), exposure=Exposure(1, 0, 9, "", "FAIL"))
    assert set(vars(tones_of(exposed)).values()) == {"open"}
    failed = [replace(probe, passed=False, failed=True) for probe in verdict.probes]
    assert tones_of(replace(verdict, probes=failed)).membership == "not forgotten"
    unsure = replace(without("G2"), tier="C", probes=failed)
    assert tones_of(unsure).membership == "open"


def test_the_page_says_its_tone_with_a_sign_and_what_would_decide(make_audit):
    page = audit_page(audit_of(make_audit, 2, 2, 0.9, 0.3, None))
    assert (
        '<p class="headline open"><b class="word"><span class="sign" aria-hidden="true">?' in page
    )
    assert "What would decide it</h2>" in page
    assert "<b>INCONCLUSIVE</b>" in page
    assert 'class="headline good"' not in page


@pytest.mark.parametrize(("tone", "style"), [("shown", "good"), ("not forgotten", "bad")])
def test_tones_have_a_sign_beside_their_colour(tone, style, good, monkeypatch):
    from unlearn_eval.report.audit import page
    from unlearn_eval.report.audit.headline import Headline

    monkeypatch.setattr(page, "headline", lambda *_: Headline(tone, "Word", "Text."))
    monkeypatch.setattr(page, "_pictures", lambda *_: [])
    assert f'class="headline {style}"' in audit_page(good)
    assert sign(tone) in audit_page(good)
