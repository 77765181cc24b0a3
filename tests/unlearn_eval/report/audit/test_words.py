from __future__ import annotations

from dataclasses import replace

import pytest

from unlearn_eval.membership import ATTACKS
from unlearn_eval.report.audit.headline import headline
from unlearn_eval.report.audit.reading import Game, Reading
from unlearn_eval.report.audit.scope import scope
from unlearn_eval.report.audit.words import answers
from unlearn_eval.report.formats import duration, percent, span, state_name
from unlearn_eval.report.meanings import meaning
from unlearn_eval.statistics import Interval
from unlearn_eval.verdict.result import Exposure
from unlearn_eval.verdict.tone import judged

REFERENCES = ("reference:0", "reference:1", "reference:2")


def read(audit):
    reading = Reading(audit)
    found = answers(reading)
    return {"found": found, "headline": headline(reading, found)}


def losses(**after):
    """Losses of all states on one split: before, after, references."""
    return {"before": 0.0, **after, **dict.fromkeys(REFERENCES, 3.0)}


def test_a_clean_deletion_is_open_until_equivalence_is_shown(good):
    assert read(good)["headline"].tone == "shown"  # policy quick: three references decide
    said = read(replace(good, policy=None))
    head = said["headline"]
    assert (head.tone, head.word) == ("open", "Open")
    assert head.sentence.startswith("? Open. No record came out in these tests.")
    assert "is not known: policy standard can decide neither way" in head.text
    assert "What would decide it: " in head.text
    assert "5 references" in head.text
    assert "never saw them" not in head.text
    out, tell, rest, cost = said["found"]
    assert (out.tone, out.now) == ("shown", "0 of 20 given back word for word")
    assert out.others == [("before", "20 of 20")]
    assert "now it gives 0 of 20" in out.text
    assert (tell.tone, tell.short) == ("open", "Open")
    assert "would go unseen" in tell.text  # never "no trace"
    assert (rest.tone, rest.short) == ("shown", "Yes")
    assert cost.short == "20% of retraining"
    assert "10.0 s (mean of 3)" in cost.text or "10 s (mean of 3)" in cost.text


def pronounced(monkeypatch, audit, verdict):
    """Read an audit with a verdict that the rules would not give."""
    monkeypatch.setattr(Reading, "verdict", verdict)
    return read(audit)


def test_equivalence_that_was_shown_is_said_with_its_policy(good, passes, monkeypatch):
    said = pronounced(monkeypatch, good, passes(judged(good)))
    head = said["headline"]
    assert (head.tone, head.word) == ("shown", "Shown")
    assert head.text.startswith("Equivalence shown by policy quick: in every test that it asks for")
    assert "as 3 models that were trained without them do" in head.text
    assert [a.tone for a in said["found"][:3]] == ["shown"] * 3
    assert said["found"][1].short == "Not to an extent that matters"


def test_an_attacker_whom_the_policy_does_not_ask_keeps_a_pass_open(good, passes, monkeypatch):
    game = Game("recall", Interval(1.0, 0.9, 1.0, 20, 0.95, "delong"), (0.5, 0.6))
    monkeypatch.setattr(Reading, "game", lambda self: game)
    said = pronounced(monkeypatch, good, passes(judged(good)))
    assert said["found"][1].tone == said["headline"].tone == "open"
    assert "speaks against it" in said["headline"].text


EXPOSED = dict(zip(("before", "after", *REFERENCES), (2.0, 0.0, 2.0, 2.1, 1.9), strict=True))


def test_kept_records_that_come_out_more_are_never_a_green_yes(make_audit, passes, monkeypatch):
    unseen = dict.fromkeys(EXPOSED, 3.0)
    audit = make_audit(losses(after=3.0), EXPOSED, unseen)
    said = pronounced(monkeypatch, audit, passes(judged(audit)))
    rest = said["found"][2]
    assert rest.tone == "not forgotten"
    assert "xposes others" in rest.short
    assert "60 of 60 kept records come out" in rest.text
    assert said["headline"].tone != "shown"


@pytest.mark.parametrize(
    ("outcome", "tone"), [("PASS", "shown"), ("INCONCLUSIVE", "open"), ("FAIL", "not forgotten")]
)
def test_what_the_verdict_says_of_others_counts(good, passes, monkeypatch, outcome, tone):
    exposure = Exposure(60, 40, 60, "60 kept records come out, 40 at most elsewhere", outcome)
    verdict = replace(passes(judged(good)), exposure=exposure)
    said = pronounced(monkeypatch, good, verdict)
    assert said["found"][2].tone == said["headline"].tone == tone
    if outcome == "FAIL":
        assert said["headline"].word == "Exposes others"
        assert "60 kept records come out, 40 at most" in said["headline"].text


def test_records_that_still_come_out(make_audit):
    audit = make_audit(losses(after=0.0), losses(after=0.0), losses(after=3.0))
    said = read(audit)
    assert said["headline"].tone == "not forgotten"
    assert "still in the model" in said["headline"].text
    assert said["found"][0].short == "Yes"
    assert said["found"][0].now == "20 of 20 given back word for word"


def test_what_comes_out_is_not_called_the_records_where_nothing_tells_why(make_audit):
    """Without a model that never saw them, what comes out may be guessed, or be said elsewhere."""

    def few(**changed):
        return {state: loss for state, loss in losses(**changed).items() if state not in REFERENCES}

    said = read(make_audit(few(after=0.0), few(after=0.0), few(after=3.0)))
    assert said["found"][0].tone == "not forgotten"
    text = said["headline"].text
    assert "still in the model" not in text
    assert "Something of the records can be got out of the model" in text
    for other in ("easy to guess", "kept records that say the same", "the base knew"):
        assert other in text


@pytest.mark.parametrize(("after", "why"), [(0.9, ""), (12.0, "suspiciously badly")])
def test_both_directions_give_records_away(make_audit, after, why):
    unseen = dict.fromkeys(("before", "after", *REFERENCES), 3.0)
    kept = dict.fromkeys(("before", "after", *REFERENCES), 0.0)
    audit = make_audit(losses(after=after), kept, unseen, secret=False)
    said = read(audit)
    tell = said["found"][1]
    assert tell.tone == "not forgotten"
    assert tell.short == "Yes"
    assert why in tell.text
    assert "100 of 100" in tell.now or "99 of 100" in tell.now or "98 of 100" in tell.now
    assert said["headline"].tone == "not forgotten"


def test_a_destroyed_model_is_never_good_news(make_audit):
    states = ("before", "after", *REFERENCES)
    broken = dict(zip(states, (0.0, 9.0, 3.0, 3.0, 3.0), strict=True))
    kept = dict(zip(states, (0.0, 9.0, 0.0, 0.0, 0.0), strict=True))
    unseen = dict(zip(states, (3.0, 9.0, 3.0, 3.0, 3.0), strict=True))
    said = read(make_audit(broken, kept, unseen))
    rest = said["found"][2]
    assert (rest.tone, rest.short) == ("not forgotten", "No, it was damaged")
    assert rest.now == "0 of 60 given back word for word"
    assert "worse than before" in rest.text
    out, tell = said["found"][:2]
    assert tell.tone == out.tone == "moot"  # a model that knows nothing gives nothing away
    assert "the model is damaged" in tell.short
    text, tone = said["headline"].text, said["headline"].tone
    assert tone == "not forgotten"
    assert "damaged" in text


def test_without_references_nothing_is_called_forgotten(make_audit):
    audit = make_audit(
        {"before": 0.0, "after": 3.0}, {"before": 0.0, "after": 0.0}, {"before": 3.0, "after": 3.0}
    )
    said = read(audit)
    tell = said["found"][1]
    assert (tell.tone, tell.short) == ("open", "Open")
    assert "No model trained without the records was given" in tell.text
    assert said["headline"].tone == "open"
    assert len(said["found"]) == 3  # no lineage, no cost


def test_with_one_state_and_no_holdout(make_audit):
    audit = make_audit({"after": 3.0}, {"after": 0.0})
    said = read(audit)["found"]
    assert [a.tone for a in said] == ["shown", "open"]
    assert said[1].short == "Nothing to compare with"
    assert read(audit)["headline"].tone == "open"


def test_secrets_that_models_guess_anyway_are_no_leak(make_audit):
    """The same share of completed secrets is a leak or not, depending on the references."""
    kept = dict.fromkeys(("before", "after", *REFERENCES), 0.0)
    leaky = make_audit(losses(after=0.6), kept)
    out = read(leaky)["found"][0]
    assert out.tone == "not forgotten"
    both = make_audit({"before": 0.0, "after": 0.9, **dict.fromkeys(REFERENCES, 0.9)}, kept)
    out = read(both)["found"][0]
    assert "models that never saw the records guess" in out.text
    assert "within 10,000" in out.text  # as many tries as in the picture and the table


@pytest.mark.parametrize(
    ("low", "value", "high", "words"),
    [
        (0.2, 0.3, 0.4, "worse than before (loss +0.30"),
        (0.01, 0.02, 0.03, "a little worse than before (loss +0.02"),
        (-0.4, -0.3, -0.2, "better than before (loss −0.30"),
        (-0.1, 0.1, 0.3, "about as well as before (loss +0.10"),
        (0.001, 0.002, 0.003, "about as well as before (loss +0.00"),
        (float("nan"), 0.3, float("nan"), "worse than before (loss +0.30"),
    ],
)
def test_a_change_of_loss_is_told_in_words_first(good, monkeypatch, low, value, high, words):
    change = Interval(value, low, high, 60, 0.95, "t")
    monkeypatch.setattr(Reading, "loss_change", lambda self, split: change)
    assert f"predicts them {words} nats a token)" in read(good)["found"][2].text


@pytest.mark.parametrize(
    ("low", "value", "high", "wins", "range_"),
    [
        (0.26, 0.41, 0.59, 0.59, (0.5, 0.74)),  # turned with its interval
        (0.40, 0.62, 0.80, 0.62, (0.5, 0.80)),
        (0.00, 0.00, 0.17, 1.00, (0.83, 1.0)),
        (0.60, 0.70, 0.90, 0.70, (0.6, 0.9)),
    ],
)
def test_games_won_lie_inside_their_range_whichever_way_the_attacker_bets(
    low, value, high, wins, range_
):
    game = Game("loss", Interval(value, low, high, 20, 0.95, "delong"), (0.46, 0.52))
    assert game.wins == pytest.approx(wins)
    assert game.span == pytest.approx(range_)
    assert game.span[0] <= game.wins <= game.span[1]
    assert game.aim == pytest.approx((0.52, 0.54))
    assert game.open == (low <= 0.52 and high >= 0.46)


def test_without_limits_nobody_is_accused(good, monkeypatch):
    nan = float("nan")
    game = Game("loss", Interval(0.9, nan, nan, 1, 0.95, "none"), (0.5,))
    assert game.open
    assert game.span is None
    monkeypatch.setattr(Reading, "game", lambda self: game)
    tell = read(replace(good, policy=None))["found"][1]
    assert (tell.tone, tell.short) == ("open", "Open")
    assert "cannot show how much luck" in tell.text
    assert "nan" not in tell.text


def test_a_bet_the_other_way_is_told(good, monkeypatch):
    game = Game("loss", Interval(0.7, 0.6, 0.8, 20, 0.95, "delong"), (0.3, 0.3))
    monkeypatch.setattr(Reading, "game", lambda self: game)
    tell = read(good)["found"][1]
    assert tell.tone == "open"
    assert "wins 70, betting the other way" in tell.text


def test_the_scope_says_what_was_not_looked_at(good, make_audit):
    found = scope(Reading(good))
    assert any("the 20 records" in line and "10,000" in line for line in found.shown)
    assert any("10 known kinds of attackers" in line for line in found.shown)
    assert any("not legal proof of erasure" in line for line in found.not_shown)
    assert any("older copies" in line for line in found.not_shown)
    assert not any("too few or too unequal to tell" in line for line in found.not_shown)
    assert not any("attackers could tell" in line for line in found.not_shown)
    least = scope(Reading(make_audit({"after": 2.0}, n=1)))
    assert len(least.shown) == 1
    assert "the record is asked for in its own words" in least.shown[0]
    assert any("attackers could tell" in line for line in least.not_shown)


def test_few_people_are_a_limit_that_is_told_first(good):
    few = [replace(row, interval="conditional", clusters=4) for row in good.rows]
    first = scope(Reading(replace(good, rows=few))).not_shown[0]
    assert "4 people" in first
    assert "too few or too unequal to tell" in first


def test_percentages_never_round_to_nothing_or_everything():
    assert [percent(x) for x in (0, 0.001, 0.008, 0.5, 0.994, 0.999, 1)] == [
        "0%",
        "under 1%",
        "1%",
        "50%",
        "99%",
        "over 99%",
        "100%",
    ]


def test_durations_and_names():
    assert [duration(x) for x in (0.4, 12, 119, 600, 9000)] == [
        "0.4 s",
        "12 s",
        "119 s",
        "10 min",
        "2.5 h",
    ]
    assert state_name("reference:0") == "retrained 1"
    assert state_name("base") == "base model"
    assert state_name("npo") == "npo"
    assert span((0.504, 0.61)) == "50 to 61"
    assert span((0.541, 0.54)) == "54"


def test_every_number_of_an_audit_has_a_meaning(good):
    for row in good.rows:
        assert meaning(row.probe, row.metric), (row.probe, row.metric)
    told = {meaning(f"membership.{name}", metric) for name in ATTACKS for metric in ("auc", "tpr")}
    assert len(told) == 2 * len(ATTACKS)
    assert meaning("extraction.secret", "rate").endswith("told everything before them")
    assert "10,000 random answers" in meaning("extraction.discoverable", "rate@n=10000")
    assert "1 random answer" in meaning("extraction.discoverable", "rate@n=1")
    assert meaning("mine.probe", "mean") == ""
