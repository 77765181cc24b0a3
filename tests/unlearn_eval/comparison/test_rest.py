"""The rest is judged beside references, in both directions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unlearn_eval.comparison import Comparison, Outcome, lines
from unlearn_eval.comparison.contests import standings
from unlearn_eval.comparison.rest import allowed_rise, beside_references, rest_of
from unlearn_eval.report.comparison.page import comparison_page
from unlearn_eval.report.comparison.words import advice, headline, tone_of_headline


def cell(loss, recall=0.7, rise=None, method="way", **more):
    numbers = {"retain_loss": loss, "retain_recall": recall, "gap": 0.1}
    numbers["rise"] = loss - 0.5 if rise is None else rise
    return Outcome(method, 0, 0, numbers, **more)


# retrained models know the rest .4 nats worse than the model before, which is .5
THEIRS = [cell(0.9, 0.70, method="references"), cell(0.7, 0.74, method="references")]
SPREAD = [cell(1.1, 0.70, method="references"), cell(0.7, 0.74, method="references")]


def test_by_hand():
    assert beside_references(1.2, [1.0, 0.8]) == (pytest.approx(0.3), 0.1)
    assert beside_references(0.2, [1.1, 0.7, 0.9]) == (pytest.approx(-0.7), pytest.approx(0.2))
    assert beside_references(1.0, [1.0]) == (0.0, 0.1)
    assert allowed_rise([]) == 0.1
    assert allowed_rise(THEIRS) == pytest.approx(0.3 + 0.1)
    assert allowed_rise(SPREAD) == pytest.approx(0.4 + 0.2)


@pytest.mark.parametrize(
    ("loss", "recall", "references", "said"),
    [
        (0.89, 0.7, THEIRS, ""),  # risen by .39 from before, as retraining does
        (0.91, 0.7, THEIRS, "damaged"),
        (1.09, 0.7, SPREAD, ""),  # no farther off than the references are
        (1.11, 0.7, SPREAD, "damaged"),
        (0.71, 0.7, THEIRS, ""),
        (0.69, 0.7, THEIRS, "exposes others"),  # better known than by any of them
        (0.8, 0.78, THEIRS, ""),
        (0.8, 0.80, THEIRS, "exposes others"),  # 6 of 100 more come out than from any
        (0.91, 0.80, THEIRS, "damaged"),
        (0.61, 0.7, [], "damaged"),  # without references against before
        (0.59, 0.9, [], ""),
        (0.1, 0.9, [], ""),
    ],
)
def test_damaged_or_exposing(loss, recall, references, said):
    assert rest_of([cell(loss, recall)], references) == said


def test_each_cell_is_compared_with_references_of_its_forget_set():
    other = [replace(o, forget=1, numbers={**o.numbers, "retain_loss": 3.0}) for o in THEIRS]
    cells = [cell(0.8), replace(cell(3.0), forget=1)]
    assert rest_of(cells, [*THEIRS, *other]) == ""
    assert rest_of(cells, THEIRS) == "damaged"  # the second only has its rise from before
    assert rest_of([], THEIRS) == ""


def compared(*cells, **more):
    before = [cell(0.5, 1.0, method="before")]
    before[0].numbers["gap"] = 0.5
    return Comparison("rest", cells, before, THEIRS, price={"wall": 1.0}, **more)


def test_retraining_is_never_damaged():
    comparison = compared(cell(2.0, method="retrain"), exact=frozenset({"retrain"}))
    assert not any(line.damaged or line.exposing for line in lines(comparison))


def test_the_words_follow():
    comparison = compared(cell(0.8, 0.9, method="loud"), cell(2.0, method="harsh"))
    rows = lines(comparison)
    assert {row.name: row.rest for row in rows if row.kind == "after"} == {
        "loud": "exposes others",
        "harsh": "damaged",
    }
    assert "It exposes others: more of the records to keep comes out" in headline(comparison, rows)
    said = " ".join(advice(comparison, rows))
    assert "Others are exposed after loud" in said
    assert "Not as they were set here: harsh." in said
    assert "above that of retrained models by 0.1 nats a token" in said
    page = comparison_page(comparison, standings(comparison))
    assert "<small>exposes others</small>" in page
    assert "<small>damaged</small>" in page
    assert page.count("<small>damaged</small>") == 1


def test_the_headline_is_as_green_as_the_verdicts_on_its_method(judged):
    assert tone_of_headline(lines(judged)) == "open"  # good passes in some cells only
    passing = [
        replace(o, ruling=replace(o.ruling, outcome="PASS")) if o.method == "good" else o
        for o in judged.outcomes
    ]
    whole = replace(judged, outcomes=passing)
    assert tone_of_headline(lines(whole)) == "shown"
    by_name = {line.name: line.tone for line in lines(whole)}
    assert by_name == {
        "before": "not forgotten",
        "references": "not forgotten",
        "good": "shown",
        "leaky": "not forgotten",
        "harsh": "not forgotten",
    }
    broken = [
        replace(o, error="out of memory") if (o.method, o.seed) == ("good", 0) else o
        for o in passing
    ]
    rows = lines(replace(whole, outcomes=broken))
    assert {line.name: line.tone for line in rows}["good"] == "open"
    assert tone_of_headline(lines(replace(judged, outcomes=[], before=[]))) == "open"
    exposing = [replace(line, rest="exposes others") for line in lines(whole)]
    assert tone_of_headline(exposing) == "open"


def test_without_a_policy_nothing_is_green(comparison):
    assert {line.tone for line in lines(comparison)} == {None}
    assert tone_of_headline(lines(comparison)) == "open"
