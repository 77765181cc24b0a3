"""Which attacker and which treatment a report speaks of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unlearn_eval.report import audit_page
from unlearn_eval.report.audit.headline import headline
from unlearn_eval.report.audit.reading import Reading
from unlearn_eval.report.audit.words import answers
from unlearn_eval.results.audit_result import AuditRow
from unlearn_eval.results.rows import audit_rows
from unlearn_eval.scores.measures import Measurement
from unlearn_eval.statistics import auc_interval

REFERENCES = ("reference:0", "reference:1", "reference:2")
STATES = ("before", "after", *REFERENCES)


def spread_out(make_audit):
    """After unlearning half of the records lie far below, and half far above, unseen ones."""
    audit = make_audit(
        dict(zip(STATES, (0.0, 3.0, 3.0, 3.1, 3.0), strict=True)),
        dict.fromkeys(STATES, 0.0),
        dict.fromkeys(STATES, 3.0),
        secret=False,
    )
    matrix = audit.scores["after"]["forget"]
    factor = np.repeat(np.where(np.arange(20) % 2, 0.05, 4.0), 6)
    changed = replace(matrix, log_prob=matrix.log_prob * factor)
    scores = {s: dict(splits) for s, splits in audit.scores.items()}
    scores["after"]["forget"] = changed
    return replace(audit, scores=scores, rows=audit_rows(scores, audit.subjects))


def test_an_attack_that_compares_with_references_can_be_the_strongest(make_audit):
    reading = Reading(spread_out(make_audit))
    assert {"loss", "lira", "rmia", "deviation", "quantile"} <= set(reading.attacks)
    assert reading.tried == len(reading.attacks)
    assert reading.strongest == "deviation"
    plain = reading.audit.get("after", "forget", "membership.loss", "auc")
    assert plain.low < 0.5 < plain.high  # likelihood alone sees nothing
    game = reading.game()
    assert game.attack == "deviation"
    row = reading.audit.get("after", "forget", "membership.deviation", "auc")
    assert game.auc.value == pytest.approx(row.value)
    assert game.auc.level == pytest.approx(1 - 0.05 / reading.tried)
    assert game.auc.low < row.low  # wider: it was picked among many
    assert not game.open
    tell = answers(reading)[1]
    assert tell.tone == "not forgotten"
    assert "(deviation)" in tell.text
    assert "membership.deviation" in audit_page(reading.audit)


def test_an_attack_with_a_pass_of_its_own_counts_too(good):
    rng = np.random.default_rng(0)
    places = {"forget": np.arange(0, 20, 2), "holdout": np.arange(80)}
    values = {"forget": rng.normal(9, 1, 10), "holdout": rng.normal(0, 1, 80)}
    measures = {
        state: {
            split: [Measurement("membership.grad_norm", "score", places[split], values[split])]
            for split in places
        }
        for state in good.states
    }
    found = auc_interval(values["forget"], values["holdout"])
    row = AuditRow(
        "after",
        "forget",
        "membership.grad_norm",
        "auc",
        found.value,
        found.low,
        found.high,
        10,
        0.95,
        "delong",
    )
    audit = replace(good, rows=[*good.rows, row], measures=measures)
    reading = Reading(audit)
    assert reading.tried == Reading(good).tried + 1
    assert reading.strongest == "grad_norm"
    assert reading.game().auc.value == 1.0
    assert reading.game().auc.n == 10


def treated(good, excess, now, theirs, *, error=0.1, out=0.0, name="relearned k=5 steps=10"):
    """Add the rows of one treatment."""

    def row(state, probe, metric, value, **more):
        plain = (state, "forget", probe, metric, value, None, None, 15, 0.95, "t")
        return AuditRow(*plain, deployment=name, **more)

    params = {"standard_error": error, "freedom": 14.0}
    rows = [
        row("after", "utility.loss", "mean", now),
        row("after", "extraction.verbatim", "rate", out),
        *(row(r, "utility.loss", "mean", theirs) for r in REFERENCES),
        *(row(r, "extraction.verbatim", "rate", 0.0) for r in REFERENCES),
        replace(
            row("after", "robustness.relearn", "excess[utility.loss]", excess, params=params),
            low=excess - 0.2,
            high=excess + 0.2,
        ),
    ]
    return replace(good, rows=[*good.rows, *rows])


@pytest.mark.parametrize(
    ("excess", "now", "theirs", "error", "back"),
    [
        (-2.0, 0.5, 2.5, 0.1, True),
        (-2.0, 0.5, 2.5, 1.0, False),  # could be luck
        (-0.15, 2.3, 2.5, 0.1, False),  # too little to matter
        (-2.0, 2.6, 2.5, 0.1, False),  # pushed away before, and now where unseen ones are
        (2.0, 2.6, 0.5, 0.1, False),  # the references learn faster
    ],
)
def test_a_treatment_that_brings_the_records_back(good, excess, now, theirs, error, back):
    audit = treated(good, excess, now, theirs, error=error, out=0.4)
    reading = Reading(audit)
    found = reading.returns()
    assert bool(found) is back
    said = answers(reading)
    lasting = next(a for a in said if "stay gone" in a.question)
    told_first = headline(reading, said)
    text, tone = told_first.text, told_first.tone
    if back:
        assert (found[0].loss, found[0].out, found[0].n) == (2.0, 0.4, 15)
        assert lasting.tone == "not forgotten"
        assert "6 of 15 come out word for word (from those others, 0)" in lasting.text
        assert "brings them back more than" in text
        assert tone == "not forgotten"
    else:
        assert (lasting.tone, "brings them back" in text) == ("open", False)
        assert tone == "shown"  # by the verdict, which nothing here speaks against


def test_without_treatments_nothing_is_said_of_them(good):
    assert not any("stay gone" in a.question for a in answers(Reading(good)))
    assert Reading(good).returns() == []


@pytest.mark.parametrize(("games", "back"), [(0.4, True), (0.1, False), (-0.4, False)])
def test_records_that_stand_out_from_unseen_ones_again_return_too(good, games, back):
    """The loss need not fall: that of unseen records may rise."""
    audit = treated(good, 0.3, 3.3, 3.0)
    plain = treated(good, games, 0.5 + games, 0.5, error=0.05).rows[len(good.rows) :]
    names = {"utility.loss": "membership.loss", "robustness.relearn": "robustness.relearn"}
    rows = [
        replace(
            row,
            probe=names[row.probe],
            metric="auc" if row.metric == "mean" else "excess[membership.loss]",
        )
        for row in plain
        if row.probe in names
    ]
    found = Reading(replace(audit, rows=[*audit.rows, *rows])).returns()
    assert bool(found) is back
    if back:
        assert found[0].games == pytest.approx(games)


def test_several_treatments_share_the_error(good):
    audit = good
    for i in range(20):
        audit = treated(audit, -0.36, 0.5, 2.5, name=f"int4 group={i}")
    # one alone: −0.36 + 2.14·0.1 < −0.1; of twenty: t = 3.8
    assert Reading(treated(good, -0.36, 0.5, 2.5)).returns()
    assert Reading(audit).returns() == []


def test_what_is_closest_to_the_forgotten_is_told_apart(make_audit):
    audit = make_audit(
        dict(zip(STATES, (0.0, 3.0, 3.0, 3.1, 3.0), strict=True)),
        dict.fromkeys(STATES, 0.0),
        dict.fromkeys(STATES, 3.0),
    )
    scores = {
        s: {**splits, "neighbour": splits["forget" if s == "after" else "retain"].take(range(20))}
        for s, splits in audit.scores.items()
    }
    near = replace(audit, scores=scores, rows=audit_rows(scores, audit.subjects))
    reading = Reading(near)
    said = answers(reading)
    told = next(a for a in said if "closest to them" in a.question)
    assert told.tone == "not forgotten"
    assert "Of the records like those to forget" in told.text
    told_first = headline(reading, said)
    text, tone = told_first.text, told_first.tone
    assert "should have stayed, have suffered" in text
    assert tone == "not forgotten"
    assert "Records like those to forget" in audit_page(near)
