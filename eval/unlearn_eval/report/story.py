"""The page of several attempts to forget the same records, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from unlearn.provenance.lineage import now
from unlearn_eval.replay.result import Replay
from unlearn_eval.report.audit import plots
from unlearn_eval.report.audit.headline import Headline, headline
from unlearn_eval.report.audit.page import Picture
from unlearn_eval.report.audit.reading import WHOLE, Reading, folded
from unlearn_eval.report.audit.scope import scope
from unlearn_eval.report.audit.words import AnswerTone, answers, count
from unlearn_eval.report.formats import duration, span
from unlearn_eval.report.page import render
from unlearn_eval.report.texts import ShownRecord
from unlearn_eval.results.rows import Audit
from unlearn_eval.verdict.replayed import beside_audit
from unlearn_eval.verdict.tone import tone_of

__all__ = ["COLUMNS", "Attempt", "OutcomeLine", "outcome", "story_page", "uncertain"]

COLUMNS = ("given back word for word", "attacker wins", "others still known", "time taken")
"""What `outcome` tells of each attempt."""


@dataclass(frozen=True)
class Attempt:
    """One way that was tried.

    Attributes:
        name: the method.
        summary: what it does, in half a sentence.
        audit: what came of it, audited with the same records and references as the others.
        link: its own report, relative to the page.
        replay: what training again showed, of a way that can be proven so.
    """

    name: str
    summary: str
    audit: Audit
    link: str
    replay: Replay | None = None

    def news(self, reading: Reading) -> Headline:
        """Sum up what came of it, in the tone of the verdict on its audit and its replay."""
        audited = headline(reading, answers(reading))
        if self.replay is None or self.replay.outcome == "INCONCLUSIVE":
            return audited
        tone = tone_of(beside_audit(self.replay.outcome, reading.verdict.outcome))
        words = self.replay.words
        told = f"{words[:1].upper()}{words[1:]}."
        if self.replay.outcome == "FAIL":
            return Headline(tone, "Not forgotten", told)
        if tone == "shown":
            return Headline(tone, "Shown", told)
        return Headline(tone, "Open", f"{told} Its audit all the same: {audited.text}")


def story_page(
    title: str,
    sentences: Sequence[str],
    attempts: Sequence[Attempt],
    texts: Sequence[ShownRecord],
    commands: Sequence[tuple[str, str]],
    about_texts: str = "",
) -> str:
    """Return a page that shows what was tried and what came of it.

    Args:
        title: its title.
        sentences: what happened before, a paragraph each.
        attempts: at least one.
        texts: some records to show, with what the model says after each attempt.
        commands: (what it is for, command) of what a reader may want to run next.
        about_texts: what to notice in `texts`.

    Returns:
        HTML.
    """
    return render(
        "story.html",
        title=title,
        made=now(),
        told=sentences,
        columns=COLUMNS,
        lines=outcome(attempts),
        uncertain=uncertain(attempts),
        scope=scope(Reading(attempts[0].audit)),
        pictures=[*_compared(attempts), _costs(attempts)],
        about_texts=about_texts,
        texts=texts,
        commands=commands,
    )


@dataclass(frozen=True)
class OutcomeLine:
    """One line of the table of what came of it, as text.

    Attributes:
        name: the method, or the state.
        summary: what it does.
        link: its report.
        tone: that of its audit's headline; `plain` of the model before and of references.
        verdict: what its audit found.
        out: forget records given back word for word.
        wins: games of a hundred that the best attacker wins.
        range: how many it may be, given so few records.
        kept: records to keep that are given back word for word.
        time: of training.
    """

    name: str
    summary: str
    link: str
    tone: AnswerTone
    verdict: str
    out: str
    wins: str
    range: str
    kept: str
    time: str


def outcome(attempts: Sequence[Attempt]) -> list[OutcomeLine]:
    """Sum up what came of several attempts.

    Args:
        attempts: at least one, audited with the same records and references.

    Returns:
        A line for the model before, one an attempt, one for the references where there are any.
    """
    first = Reading(attempts[0].audit)
    lines = [_line(first, "before", "before", "as it was trained")]
    for attempt in attempts:
        reading = Reading(attempt.audit)
        news = attempt.news(reading)
        lines.append(_line(reading, "after", attempt.name, attempt.summary, attempt.link, news))
    references = first.references
    if references:
        aim, times = _aim(attempts), first.cost(references)
        lines.append(
            OutcomeLine(
                name=_AIM,
                summary=f"{len(references)} models trained without the records",
                link="",
                tone="plain",
                verdict="",
                out=_among(first, "forget"),
                wins=f"{span(aim)} of 100" if aim else "–",
                range="",
                kept=_among(first, "retain"),
                time=duration(fmean(times)) if times else "–",
            )
        )
    return lines


def uncertain(attempts: Sequence[Attempt]) -> str:
    """Say which attackers' figures cannot be told from retrained models', and which say nothing.

    Args:
        attempts: at least one, audited with the same records and references.

    Returns:
        Text; empty if every figure speaks for itself.
    """
    parts = []
    for attempt in attempts:
        reading = Reading(attempt.audit)
        game = reading.game()
        if game is None:
            continue
        wins = f"{100 * game.wins:.0f}"
        if any(answer.tone == "moot" for answer in answers(reading)):
            parts.append(f"{attempt.name}'s {wins} says nothing, as its model is damaged")
        elif reading.tones.membership == "not forgotten":
            continue  # the verdict's probes tell more than this attacker does
        elif game.open and game.span and game.aim:
            parts.append(
                f"{attempt.name}'s {wins} cannot be told from the models that were retrained "
                f"without the records, but {game.auc.n} record{'s' * (game.auc.n != 1)} "
                f"show no more than that the true figure is {span(game.span)}"
            )
    text = "; ".join(parts)
    return f"Of these figures, {text}." if text else ""


_AIM = "retrained without"


def _line(
    reading: Reading,
    state: str,
    name: str,
    summary: str,
    link: str = "",
    news: Headline | None = None,
) -> OutcomeLine:
    out, retain_row = reading.row(state, "forget", *WHOLE), reading.row(state, "retain", *WHOLE)
    game, seconds = reading.game(state), reading.cost([state])
    return OutcomeLine(
        name=name,
        summary=summary,
        link=link,
        tone=news.tone if news else "plain",
        verdict=f"{news.word}. {news.text}" if news else "",
        out=count(out) if out else "–",
        wins=f"{100 * game.wins:.0f} of 100" if game else "–",
        range=span(game.span) if game and game.span else "",
        kept=count(retain_row) if retain_row else "–",
        time=duration(seconds[0]) if seconds and state != "before" else "–",
    )


def _among(reading: Reading, split: str) -> str:
    """Write how many records the references give back."""
    measured = [reading.row(state, split, *WHOLE) for state in reading.references]
    rows = sorted((row for row in measured if row), key=lambda row: row.value or 0.0)
    if not rows:
        return "–"
    least, most = count(rows[0]), count(rows[-1])
    return most if least == most else f"{least.split()[0]} to {most}"


def _aim(attempts: Sequence[Attempt]) -> tuple[float, float] | None:
    """Return fewest and most games that the attempts' attackers win against references."""
    games = (Reading(attempt.audit).game() for attempt in attempts)
    ends = [end for game in games if game and game.aim for end in game.aim]
    return (min(ends), max(ends)) if ends else None


def _compared(attempts: Sequence[Attempt]) -> list[Picture]:
    """Draw the columns of the table that want an eye, row by row as there."""
    first = Reading(attempts[0].audit)
    aim = _aim(attempts)
    wins: dict[str, list[plots.Mark]] = {}
    kept: dict[str, list[plots.Mark]] = {}
    wins_aim: list[plots.Mark] = []
    places = [("before", first, "before")]
    places += [(attempt.name, Reading(attempt.audit), "after") for attempt in attempts]
    places += [(_AIM, first, state) for state in first.references]
    for label, reading, state in places:
        kind = "reference" if label == _AIM else state
        game, row = reading.game(state), reading.row(state, "retain", *WHOLE)
        if game and kind == "after" and game.others:
            wins_aim += [plots.Mark("reference", folded(auc)) for auc in game.others]
        if game and kind != "reference":
            low, high = game.span or (None, None)
            wins.setdefault(label, []).append(plots.Mark(kind, game.wins, low, high))
        if row and row.value is not None:
            low, high = (None, None) if label == _AIM else (row.low, row.high)
            kept.setdefault(label, []).append(plots.Mark(kind, row.value, low, high))
    if wins_aim:
        # one span: the attempts' attackers differ, so there are more figures than models
        low, high = min(m.value for m in wins_aim), max(m.value for m in wins_aim)
        wins[_AIM] = [plots.Mark("reference", (low + high) / 2, low, high)]
    attacked = plots.Panel("games the attacker wins", wins, aim, (0.5, 1.0))
    rest = plots.Panel("other records word for word", kept, None, (0.0, 1.0))
    return [
        Picture(
            "How often an attacker wins",
            plots.panels("wins", [attacked], plots.NARROW),
            "As in the table, each by its best attacker; lines show how far off a figure may be."
            + (" The green band is what to aim at." if aim else ""),
        ),
        Picture(
            "How much of the rest is left",
            plots.panels("kept", [rest], plots.NARROW),
            "Records nobody wanted forgotten. To the right is good.",
        ),
    ]


def _costs(attempts: Sequence[Attempt]) -> Picture:
    first = Reading(attempts[0].audit)
    times = first.cost(first.references) or [
        seconds for a in attempts for seconds in Reading(a.audit).cost(["after"])
    ]
    mean = fmean(times)
    shares = {
        a.name: (seconds / mean, duration(seconds))
        for a in attempts
        if a.name != "retrain"
        for seconds in Reading(a.audit).cost(["after"])
    }
    shares["retraining"] = (1.0, duration(mean))
    text = (
        "Why not simply retrain? It is the only certain way, and often the first choice where it "
        "is affordable and all the training data is still there. A small model takes seconds; a "
        "large one can take days, and then other methods are worth their risk."
    )
    return Picture("What it took", plots.costs(shares, plots.NARROW), text)
