"""The page of several attempts to forget the same records, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from unlearn import lineage as lin
from unlearn_eval._table import Audit
from unlearn_eval.report import plots
from unlearn_eval.report._page import render
from unlearn_eval.report.audit import Picture
from unlearn_eval.report.reading import WHOLE, Reading, folded
from unlearn_eval.report.texts import ShownRecord
from unlearn_eval.report.words import Tone, answers, duration, headline, percent

__all__ = ["Attempt", "Line", "outcome", "story_page"]


@dataclass(frozen=True)
class Attempt:
    """One way that was tried.

    Attributes:
        name: the method.
        summary: what it does, in half a sentence.
        audit: what came of it, audited with the same records and references as the others.
        link: its own report, relative to the page.
    """

    name: str
    summary: str
    audit: Audit
    link: str


def story_page(
    title: str,
    told: Sequence[str],
    attempts: Sequence[Attempt],
    texts: Sequence[ShownRecord],
    commands: Sequence[tuple[str, str]],
) -> str:
    """Return a page that shows what was tried and what came of it.

    Args:
        title: its title.
        told: what happened before, a paragraph each.
        attempts: at least one.
        texts: some records to show, with what the model says after each attempt.
        commands: (what it is for, command) of what a reader may want to run next.

    Returns:
        HTML.
    """
    return render(
        "story.html",
        title=title,
        made=lin.now(),
        told=told,
        lines=outcome(attempts),
        pictures=[_tradeoff(attempts), _costs(attempts)],
        texts=texts,
        commands=commands,
    )


@dataclass(frozen=True)
class Line:
    """One line of the table of what came of it, as text.

    Attributes:
        name: the method, or the state.
        summary: what it does.
        link: its report.
        tone: whether the verdict is good or bad news.
        verdict: what its audit found.
        out: forget records that come out.
        wins: games of a hundred that the best attack wins.
        kept: share of the records to keep that are known word for word.
        time: of training.
    """

    name: str
    summary: str
    link: str
    tone: Tone
    verdict: str
    out: str
    wins: str
    kept: str
    time: str


def outcome(attempts: Sequence[Attempt]) -> list[Line]:
    """Sum up what came of several attempts.

    Args:
        attempts: at least one, audited with the same records and references.

    Returns:
        A line for the model before, one an attempt, one for the references where there are any.
    """
    first = Reading(attempts[0].audit)
    lines = [_line(first, "before", "before", "", "", ("", "plain"))]
    for attempt in attempts:
        reading = Reading(attempt.audit)
        said = headline(answers(reading))
        lines.append(_line(reading, "after", attempt.name, attempt.summary, attempt.link, said))
    references = first.references
    if references:
        gone = attempts[0].audit.scores["after"]["forget"].records
        out = fmean(first.of_references("forget", *WHOLE)) * gone
        wins = [
            folded(auc)
            for attempt in attempts
            for auc in first.of_references("forget", _attack(Reading(attempt.audit)), "auc")
        ]
        lines.append(
            Line(
                name="what to aim at",
                summary=f"{len(references)} models trained without the records",
                link="",
                tone="plain",
                verdict="",
                out=f"{round(out)} of {gone}",
                wins=_range(wins),
                kept=percent(fmean(first.of_references("retain", *WHOLE))),
                time=duration(fmean(first.cost(references))) if first.cost(references) else "",
            )
        )
    return lines


def _line(
    reading: Reading,
    state: str,
    name: str,
    summary: str,
    link: str,
    said: tuple[str, Tone],
) -> Line:
    out, kept = reading.row(state, "forget", *WHOLE), reading.row(state, "retain", *WHOLE)
    auc = reading.value(state, "forget", _attack(reading), "auc")
    seconds = reading.cost([state])
    return Line(
        name=name,
        summary=summary,
        link=link,
        tone=said[1],
        verdict=said[0],
        out="–" if out is None or out.value is None else f"{round(out.value * out.n)} of {out.n}",
        wins="–" if auc is None else f"{100 * folded(auc):.0f} of 100",
        kept="–" if kept is None or kept.value is None else percent(kept.value),
        time=duration(seconds[0]) if seconds and state != "before" else "",
    )


def _attack(reading: Reading) -> str:
    return f"membership.{reading.strongest or 'loss'}"


def _range(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, high = 100 * min(values), 100 * max(values)
    return f"{low:.0f} of 100" if round(low) == round(high) else f"{low:.0f} to {high:.0f} of 100"


def _tradeoff(attempts: Sequence[Attempt]) -> Picture:
    """Draw what every attempt forgot and kept, by the attack on mean loss, the same for all."""
    points = []
    first = Reading(attempts[0].audit)
    places = [("before", first, "before", "before")]
    places += [("reference", first, state, "reference") for state in first.references]
    places += [(a.name, Reading(a.audit), "after", "after") for a in attempts]
    for label, reading, state, kind in places:
        utility = reading.row(state, "retain", "extraction.exact", "mean")
        auc = reading.row(state, "forget", "membership.loss", "auc")
        if utility is not None and auc is not None:
            points.append((label, kind, utility, auc))
    aim = first.expected("membership.loss")
    return Picture(
        "Forgetting against keeping",
        plots.tradeoff(points, aim),
        "To the right is good: the rest is still known. The dotted line is the aim for forgetting: "
        f"an attacker who compares losses scores {aim:.2f} against models that never saw the "
        "records. Above it they are recognised as known, below it as suspiciously unknown.",
    )


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
        f"Training time on this machine, against {duration(mean)} for training again without them."
    )
    return Picture("What it took", plots.costs(shares), text)
