from __future__ import annotations

import pytest

from unlearn_eval.membership import ATTACKS
from unlearn_eval.report.audit.reading import Game, Reading
from unlearn_eval.report.audit.scope import scope
from unlearn_eval.report.audit.words import answers, headline
from unlearn_eval.report.formats import duration, percent, span, state_name
from unlearn_eval.report.meanings import meaning
from unlearn_eval.statistics import Interval

REFERENCES = ("reference:0", "reference:1")


def read(audit):
    found = answers(Reading(audit))
    return {a.question.split()[1]: a for a in found} | {"found": found}


def losses(**after):
    """Losses of all states on one split: before, after, references."""
    return {"before": 0.0, **after, **dict.fromkeys(REFERENCES, 3.0)}


def test_a_clean_deletion(good):
    said = read(good)
    text, tone = headline(said["found"])
    assert tone == "good"
    assert "no longer come out" in text
    assert "as far as these tests can see" in text
    out, tell, rest, cost = said["found"]
    assert (out.tone, out.now) == ("good", "0 of 20 given back word for word")
    assert out.others == [("before", "20 of 20")]
    assert "now it gives 0 of 20" in out.text
    assert tell.tone == "good"
    assert tell.short == "No difference was found"
    assert "would go unseen" in tell.text  # never "no trace"
    assert (rest.tone, rest.short) == ("good", "Yes")
    assert cost.short == "20% of retraining"
    assert "10.0 s (mean of 2)" in cost.text or "10 s (mean of 2)" in cost.text


def test_records_that_still_come_out(make_audit):
    audit = make_audit(losses(after=0.0), losses(after=0.0), losses(after=3.0))
    said = read(audit)
    assert headline(said["found"])[1] == "bad"
    assert "still in the model" in headline(said["found"])[0]
    assert said["found"][0].short == "Yes"
    assert said["found"][0].now == "20 of 20 given back word for word"


@pytest.mark.parametrize(("after", "why"), [(0.9, ""), (12.0, "suspiciously badly")])
def test_both_directions_give_records_away(make_audit, after, why):
    unseen = dict.fromkeys(("before", "after", *REFERENCES), 3.0)
    kept = dict.fromkeys(("before", "after", *REFERENCES), 0.0)
    audit = make_audit(losses(after=after), kept, unseen, secret=False)
    said = read(audit)
    tell = said["found"][1]
    assert tell.tone == "bad"
    assert tell.short == "Yes"
    assert why in tell.text
    assert "100 of 100" in tell.now or "99 of 100" in tell.now or "98 of 100" in tell.now
    assert headline(said["found"])[1] == "bad"


def test_a_destroyed_model_is_never_good_news(make_audit):
    states = ("before", "after", *REFERENCES)
    broken = dict(zip(states, (0.0, 9.0, 3.0, 3.0), strict=True))
    kept = dict(zip(states, (0.0, 9.0, 0.0, 0.0), strict=True))
    unseen = dict(zip(states, (3.0, 9.0, 3.0, 3.0), strict=True))
    said = read(make_audit(broken, kept, unseen))
    rest = said["found"][2]
    assert (rest.tone, rest.short) == ("bad", "No, it was damaged")
    assert rest.now == "0 of 60 given back word for word"
    assert "worse than before" in rest.text
    out, tell = said["found"][:2]
    assert tell.tone == out.tone == "moot"  # a model that knows nothing gives nothing away
    assert "the model is damaged" in tell.short
    text, tone = headline(said["found"])
    assert tone == "bad"
    assert "damaged" in text


def test_without_references_nothing_is_called_forgotten(make_audit):
    audit = make_audit(
        {"before": 0.0, "after": 3.0}, {"before": 0.0, "after": 0.0}, {"before": 3.0, "after": 3.0}
    )
    said = read(audit)
    tell = said["found"][1]
    assert (tell.tone, tell.short) == ("open", "Open")
    assert "No model trained without the records was given" in tell.text
    assert headline(said["found"])[1] == "open"
    assert len(said["found"]) == 3  # no lineage, no cost


def test_with_one_state_and_no_holdout(make_audit):
    audit = make_audit({"after": 3.0}, {"after": 0.0})
    said = read(audit)["found"]
    assert [a.tone for a in said] == ["good", "open"]
    assert said[1].short == "Nothing to compare with"
    assert headline(said)[1] == "open"


def test_secrets_that_models_guess_anyway_are_no_leak(make_audit):
    """The same share of completed secrets is a leak or not, depending on the references."""
    kept = dict.fromkeys(("before", "after", *REFERENCES), 0.0)
    leaky = make_audit(losses(after=0.6), kept)
    out = read(leaky)["found"][0]
    assert out.tone == "bad"
    both = make_audit({"before": 0.0, "after": 0.9, "reference:0": 0.9, "reference:1": 0.9}, kept)
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
    tell = read(good)["found"][1]
    assert (tell.tone, tell.short) == ("open", "Open")
    assert "cannot show how much luck" in tell.text
    assert "nan" not in tell.text


def test_a_bet_the_other_way_is_told(good, monkeypatch):
    game = Game("loss", Interval(0.7, 0.6, 0.8, 20, 0.95, "delong"), (0.3, 0.3))
    monkeypatch.setattr(Reading, "game", lambda self: game)
    tell = read(good)["found"][1]
    assert tell.tone == "bad"
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
    from dataclasses import replace

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
