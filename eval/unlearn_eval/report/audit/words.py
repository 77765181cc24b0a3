"""Say in plain words what an audit found, each sentence from its numbers: one answer a question.

How good or bad the news is, the verdict on the same scores says (`unlearn_eval.verdict.tone`). What
a page sees besides, such as records that come back when the model is changed further, can make its
words worse, never better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from unlearn_eval.report.audit.reading import SECRET, WHOLE, Reading, folded
from unlearn_eval.report.formats import duration, percent, span
from unlearn_eval.results.rows import AuditRow
from unlearn_eval.statistics import Interval
from unlearn_eval.verdict.result import Verdict
from unlearn_eval.verdict.tone import Tone, least

__all__ = [
    "BAD",
    "LAST",
    "NEAR",
    "OUT",
    "REST",
    "TELL",
    "Answer",
    "AnswerTone",
    "answers",
    "count",
    "exposure_words",
]

AnswerTone = Tone | Literal["plain", "moot"]

# What is worth words: a tenth of a nat a token is 10 % of perplexity, and a twentieth of the
# records known by heart is more than the noise of one more training run.
_LOSS_MOVED = 0.1
_RECALL_MOVED = 0.05
_NO_CHANGE = 0.005  # of a loss: it is shown with two digits


@dataclass(frozen=True)
class Answer:
    """The answer to one question that anybody would ask.

    Attributes:
        question: the question.
        tone: that of the part of the verdict which answers it, or a worse one; `plain` where it is
            no matter of good and bad, `moot` because the model is damaged.
        short: the answer in a few words.
        now: the number after unlearning, with what it counts.
        others: (label, number) of other states, to compare with.
        text: what it means.
        why: of bad news, the clause that a headline gives as its reason.
    """

    question: str
    tone: AnswerTone
    short: str
    now: str
    others: Sequence[tuple[str, str]]
    text: str
    why: str = ""


def count(row: AuditRow) -> str:
    """Write a share of some records as how many of them."""
    assert row.value is not None
    return f"{round(row.value * row.n):,} of {row.n:,}"


def answers(reading: Reading) -> list[Answer]:
    """Answer the four questions anybody would ask, as far as the audit can.

    Args:
        reading: the audit.

    Returns:
        The answers, in the order of the page.
    """
    out, recognised, rest = _extracted(reading), _recognised(reading), _kept(reading)
    if reading.tones.utility == "not forgotten":
        # a model that knows nothing gives nothing away: no merit
        out = _moot(out, "Not in these tests, but the model is damaged")
        recognised = _moot(recognised, "Says nothing: the model is damaged")
    in_order = (out, recognised, _lasting(reading), rest, _near(reading), _cost(reading))
    return [answer for answer in in_order if answer]


def _moot(answer: Answer | None, short: str) -> Answer | None:
    if answer is None or answer.tone == "not forgotten":
        return answer
    return replace(answer, tone="moot", short=short)


BAD: Tone = "not forgotten"

OUT = "Can anybody get the records out of the model?"
TELL = "Can anybody tell that the model once saw them?"
REST = "Does the model still know everything else?"
LAST = "Do the records stay gone when the model is changed further?"
NEAR = "Does the model still know what is closest to them?"
_TIME = "What did it take?"


def _extracted(reading: Reading) -> Answer | None:
    now = reading.row("after", "forget", *WHOLE)
    if now is None or now.value is None:
        return None
    before = reading.row("before", "forget", *WHOLE)
    text = "Each of the records to forget was asked for once."
    if before:
        text += f" Before, the model gave {count(before)} back word for word; now"
    else:
        text += " Now"
    text += f" it gives {count(now)}."
    if now.value == 0 and now.high is not None and now.interval == "exact":
        text += (
            f" With {now.n} records tried, a share of up to {percent(now.high)} could have been "
            "missed."
        )
    tries = reading.row("after", "forget", "extraction.discoverable", _MANY)
    if tries is not None and tries.value is not None:
        text += f" Ten thousand random answers would probably hold {count(tries)}."
    sentence, secret_leak = _secrets(reading)
    extracted = reading.verdict.extraction
    some = bool(now.value or (extracted is not None and extracted.extracted))
    tone = reading.tones.extraction
    short = {
        "not forgotten": "Yes",
        "open": "Some come out; whether by chance is open" if some else "Open",
        "shown": "No more than from models without them" if some else "Not in these tests",
    }[tone]
    if secret_leak and tone != BAD:
        tone, short = BAD, "Parts of them"
    return Answer(
        OUT,
        tone,
        short,
        f"{count(now)} given back word for word",
        [("before", count(before))] if before else [],
        text + sentence,
    )


_MANY = "rate@n=10000"


def _secrets(reading: Reading) -> tuple[str, bool]:
    """Say how many sensitive values the model completes, and whether that is too many."""
    now = reading.row("after", "forget", *SECRET)
    if now is None or now.value is None:
        return "", False
    place = ("forget", SECRET[0], _MANY)
    tries = reading.row("after", *place)
    chance, luck = reading.of_references("forget", *SECRET), reading.of_references(*place)
    who = "models that never saw the records"
    if not chance and (base := reading.value("base", "forget", *SECRET)) is not None:
        lucky = reading.value("base", *place)
        chance, luck = [base], [] if lucky is None else [lucky]
        who = "the model before any training on the records"
    text = (
        " Told everything up to a sensitive value (a phone number, an address …), it completes "
        f"{count(now)} at the first try"
    )
    if tries is not None:
        text += f" and probably {count(tries)} within 10,000 tries"
    if chance:
        text += f"; {who} guess {_counts(chance, now.n)}"
        if tries is not None and luck:
            text += f" at the first try and {_counts(luck, tries.n)} within 10,000"
    leaks = now.low is not None and now.low > max(chance, default=0.0)
    if tries is not None and luck:
        leaks |= tries.low is not None and tries.low > max(luck)
    return text + ".", leaks


def _counts(shares: Sequence[float], n: int) -> str:
    low, high = (f"{round(x * n):,}" for x in (min(shares), max(shares)))
    return low if low == high else f"{low} to {high}"


def _recognised(reading: Reading) -> Answer | None:
    game = reading.game()
    if game is None:
        return None
    wins = f"{100 * game.wins:.0f} of 100"
    text = (
        "A game: an attacker sees how the model reacts to two records, one of those to forget and "
        "one that it never saw, and has to say which one was in its training. Guessing wins 50 of "
        f"100 games. The best of {reading.tried} kinds of attackers ({game.attack}) wins {wins}"
    )
    if game.auc.value < 0.5 and not game.open:
        text += " (the forgotten records stand out because the model knows them suspiciously badly)"
    text += "."
    if game.span:
        text += (
            f" With {game.auc.n} record{'s' * (game.auc.n != 1)} the true figure may lie anywhere "
            f"between {span(game.span).replace(' to ', ' and ')}"
        )
        text += ": a difference within that would go unseen." if game.open else "."
    else:
        text += " So few records cannot show how much luck is in that."
    if game.aim:
        # the same figure, and yet not the same
        turned = not game.open and game.wins <= game.aim[1]
        text += (
            f" Against models trained without the records the same attacker wins {span(game.aim)}"
            f"{', betting the other way' if turned else ''}: that is what success looks like."
        )
    else:
        text += " No model trained without the records was given to compare with."
    shown = []
    before = reading.value("before", "forget", f"membership.{game.attack}", "auc")
    if before is not None:
        shown.append(("before", f"{100 * folded(before):.0f} of 100"))
    if game.aim:
        shown.append(("retrained models", f"{span(game.aim)} of 100"))
    tone = reading.tones.membership
    if tone == "shown" and not game.open:
        tone = "open"  # one whom the policy does not ask tells them
    short = {
        "not forgotten": "Yes",
        "open": "Open",
        "shown": "Not to an extent that matters",
    }[tone]
    worse = game.auc.value < min(game.others or (0.5,))
    why = (
        "now reacts so oddly to them that an attacker can tell they were taken out"
        if worse
        else "still reacts to them as to something it has seen, which an attacker can tell"
    )
    return Answer(TELL, tone, short, f"the attacker wins {wins} games", shown, text, why)


def _lasting(reading: Reading) -> Answer | None:
    """Say what treatments bring back, where there are references to compare with."""
    tried, back = reading.deployments, reading.returns()
    if not tried:
        return None
    ways = f"{len(tried)} further change{'s' * (len(tried) != 1)}"
    text = (
        f"The model, and those that never saw the records, went through the same {ways}. One "
        "counts where it makes the records better known than in those others (a tenth of a nat a "
        "token, or 5 games of 100), and by more than luck allows."
    )
    if not back:
        short = f"none of {ways} was seen to bring them back"
        text += " None was found to do that, which with few records says little."
        return Answer(LAST, "open", "No return was found", short, [], text)
    worst = max(back, key=lambda found: (found.out - found.others, found.games, found.loss))
    moved = f"{worst.loss:+.2f}".replace("-", "−")
    text += (
        f" {len(back)} of them, most of all “{worst.deployment}”: the loss of the records falls "
        f"farther by {moved} nats a token, and an attacker who picks the likelier record gains "
        f"{100 * worst.games:.0f} games of 100 more"
    )
    if worst.out > worst.others:
        text += (
            f", and {round(worst.out * worst.n):,} of {worst.n:,} come out word for word "
            f"(from those others, {round(worst.others * worst.n):,})"
        )
    text += ". The records were hidden, not gone."
    return Answer(LAST, BAD, "No", f"{len(back)} of {ways} bring them back", [], text)


def _near(reading: Reading) -> Answer | None:
    """Say what became of records like those to forget, where some were named."""
    found = _remaining(reading, "neighbour", "Of the records like those to forget")
    if found is None:
        return None
    lost = found.lost or (found.change is not None and found.change.low > _LOSS_MOVED)
    tone: Tone = BAD if lost else "open"
    short = "No, it was damaged" if lost else "No damage was found"
    if not found.compared:
        short = "Nothing to compare with"
    return Answer(NEAR, tone, short, found.now, found.others, found.text, found.why)


def _kept(reading: Reading) -> Answer | None:
    """Say whether the rest is known as before, and comes out no more than without the records."""
    found = _remaining(reading, "retain", "Of the records to keep")
    if found is None:
        return None
    tones = reading.tones
    exposed = tones.exposure or ("open" if found.more else "shown")
    tone = least([tones.utility, exposed, "open" if found.lost else "shown"])
    text, why, short = found.text, "", "Yes"
    if found.more:
        text += f" It exposes others: {found.more}."
    if tones.utility == BAD:
        short, why = "No, it was damaged", f"the model was damaged: {found.why}"
    elif exposed == BAD:
        short = "Exposes others"
        why = f"the model exposes others: {found.more or exposure_words(reading.verdict)}"
    elif exposed == "open" and found.more:
        short = "More comes out than should"
    elif found.lost:
        short = "Not all of it comes out any more"
    elif tone == "open":
        short = "Open" if found.compared else "Nothing to compare with"
    elif found.fewer:
        short = "Nearly everything"
    return Answer(REST, tone, short, found.now, found.others, text, why)


def exposure_words(verdict: Verdict) -> str:
    """Return what the verdict says of other people's records; empty where nothing."""
    return verdict.exposure.words if verdict.exposure else ""


@dataclass(frozen=True)
class _Remaining:
    """What a split says of records that should have stayed.

    Attributes:
        now: how many come out word for word.
        others: the same of other states.
        text: what that means.
        why: how they have suffered.
        change: by how much their loss rose from before.
        compared: whether there is anything to compare with.
        lost: fewer come out than before, and than from any reference, by more than noise.
        fewer: fewer come out than from any reference.
        more: that more come out than from any reference, and how many; empty where it is not so.
    """

    now: str
    others: Sequence[tuple[str, str]]
    text: str
    why: str
    change: Interval | None
    compared: bool
    lost: bool
    fewer: bool
    more: str


def _remaining(reading: Reading, split: str, which: str) -> _Remaining | None:
    now = reading.row("after", split, *WHOLE)
    if now is None or now.value is None:
        return None
    before = reading.row("before", split, *WHOLE)
    change, unseen = reading.loss_change(split), reading.loss_change("holdout")
    shown = [("before", count(before))] if before else []
    others = reading.of_references(split, *WHOLE)
    if others:
        shown.append(("retrained models", f"{_counts(others, now.n)} of {now.n:,}"))
    text = f"{which}, the model gives {count(now)} back word for word"
    text += f"; before, {count(before)}." if before else "."
    if change is not None:
        text += f" It predicts them {_moved(change)}"
        text += f", and records it never saw {_moved(unseen)}." if unseen else "."
    usual = [*others, *([before.value] if before and before.value is not None else [])]
    why = f"it gives {count(now)} records that it should have kept back word for word"
    if before and before.value is not None and before.value > now.value:
        why += f", before {count(before)}"
    else:  # by heart still, and yet spoilt
        why = "it predicts the records that it should have kept much worse than before"
    more = ""
    if others and now.value > max(others):
        more = f"{count(now)} kept records come out word for word, {_counts(others, now.n)}"
        more += " in models that never saw the forgotten ones"
    return _Remaining(
        f"{count(now)} given back word for word",
        shown,
        text,
        why,
        change,
        bool(usual) or change is not None,
        now.high is not None and min(usual, default=0.0) - now.high > _RECALL_MOVED,
        now.value < min(others, default=0.0),
        more,
    )


def _moved(change: Interval) -> str:
    """Say whether predictions got better or worse, and by how much."""
    low, high = change.low, change.high
    if not math.isfinite(low):  # one record
        low = high = change.value
    size = "a little " if abs(change.value) < _LOSS_MOVED else ""
    if low <= 0 <= high or abs(change.value) < _NO_CHANGE:
        words = "about as well as before"
    else:
        words = f"{size}{'worse' if change.value > 0 else 'better'} than before"
    return f"{words} (loss {change.value:+.2f} nats a token)".replace("-", "−")


def _cost(reading: Reading) -> Answer | None:
    ours, theirs = reading.cost(["after"]), reading.cost(reading.references)
    if not ours:
        return None
    now = duration(ours[0])
    if not theirs:
        return Answer(
            _TIME,
            "plain",
            "Only training time is known",
            now,
            [],
            "Training time of the unlearning run. No retrained model says what that would take.",
        )
    mean = sum(theirs) / len(theirs)
    share = ours[0] / mean
    often = f" (mean of {len(theirs)})" if len(theirs) > 1 else ""
    compared = f"{percent(share)} of retraining" if share < 2 else f"{share:.1f} times retraining"
    text = (
        f"Unlearning trained for {now}; training again without the records took "
        f"{duration(mean)}{often}. Retraining is the only certain way, since they were never in "
        "it: where it is affordable and the other training data is still there, often the first "
        "choice."
    )
    if reading.audit.training["after"].get("method") == "retrain":
        compared = "It is retraining"
        text = (
            "The model was trained again without the records: they were never in it. The other "
            f"retrained models, made in the same way, took {duration(mean)}{often}."
        )
    return Answer(
        _TIME, "plain", compared, f"{now} of training", [("retraining", duration(mean))], text
    )
