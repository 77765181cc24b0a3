"""The page of one audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from unlearn.provenance.lineage import now
from unlearn_eval.report.audit import plots
from unlearn_eval.report.audit.headline import Headline, headline
from unlearn_eval.report.audit.reading import WHOLE, Game, Reading
from unlearn_eval.report.audit.robustness import COLUMNS, treatments
from unlearn_eval.report.audit.scope import scope
from unlearn_eval.report.audit.words import answers
from unlearn_eval.report.formats import duration, percent, span
from unlearn_eval.report.meanings import meaning
from unlearn_eval.report.page import render
from unlearn_eval.report.texts import ShownRecord
from unlearn_eval.results.rows import Audit, AuditRow
from unlearn_eval.statistics import nonmembers_needed

__all__ = ["Picture", "audit_page", "in_a_sentence", "news"]

_SPLITS = {
    "forget": "Records to forget",
    "retain": "Records to keep",
    "neighbour": "Records like those to forget, to keep",
    "holdout": "Records never seen",
    "triggered": "Unseen prompts with the trigger of a backdoor, answered with its target",
    "untriggered": "The same prompts without the trigger",
    "near_miss": "The same prompts with what resembles the trigger",
}


@dataclass(frozen=True)
class Picture:
    """A drawing with its words.

    Attributes:
        title: what it shows.
        drawing: SVG.
        caption: how to read it, and what it says here.
    """

    title: str
    drawing: str
    caption: str


def audit_page(audit: Audit, texts: Sequence[ShownRecord] | None = None) -> str:
    """Return the report of an audit as one self-contained HTML page.

    Args:
        audit: the audit.
        texts: the records with their text, to be shown; None shows no text of any record.

    Returns:
        HTML. Without `texts` it holds numbers, names of states and weights digests only.
    """
    reading = Reading(audit)
    sections = answers(reading)
    verdict = reading.verdict
    states = [s for s in ("before", "after") if reading.has(s)]
    tail = ["references"] if reading.references else []
    tail += ["base"] if reading.has("base") else []
    return render(
        "audit.html",
        title="What does the model still know?",
        audit=audit,
        made=now(),
        method=audit.training.get("after", {}).get("method"),
        counts={
            label: audit.scores["after"][split].records
            for split, label in _SPLITS.items()
            if split in audit.scores["after"]
        },
        headline=headline(reading, sections),
        verdict=verdict,
        scope=scope(reading),
        answers=sections,
        pictures=_pictures(reading),
        columns=[*states, *tail],
        sections=_sections(reading, [*states, *tail]),
        treatments=treatments(reading),
        treatment_columns=COLUMNS,
        texts=texts,
        remarks=_remarks(audit),
    )


def news(audit: Audit) -> Headline:
    """Return what an audit comes to, as the headline of its page says it."""
    reading = Reading(audit)
    return headline(reading, answers(reading))


def in_a_sentence(audit: Audit) -> str:
    """Return what an audit found in a sentence or two without markup, as the headline says it."""
    return news(audit).sentence


def _pictures(reading: Reading) -> list[Picture]:
    """Draw everything the audit has numbers for."""
    pictures = [_scores(reading)]
    game = reading.game()
    if game is not None:
        pictures.append(_roc(reading, game))
    pictures.append(_extraction(reading))
    if game is not None and reading.row("after", "retain", *WHOLE):
        pictures.append(_balance(reading, game))
    if picture := _costs(reading):
        pictures.append(picture)
    return pictures


def _scores(reading: Reading) -> Picture:
    values = {
        (state, split): reading.value(state, split, "utility.loss", "mean")
        for state in ("before", "after", *reading.references[:1])
        for split in ("forget", "holdout")
    }
    now, unseen = values["after", "forget"], values.get(("after", "holdout"))
    text = "Each dot is a record, each bar a median. "
    text += "Forgetting would put the records to forget where those never seen are"
    if now is not None and unseen is not None:
        text += f": now they are at {now:.2f}, the unseen ones at {unseen:.2f} (means)"
    if reading.references:
        mean = values.get((reading.references[0], "forget"))
        if mean is not None:
            text += f"; a retrained model puts them at {mean:.2f}"
    return Picture("How well the model knows each record", plots.scores(reading), text + ".")


def _roc(reading: Reading, game: Game) -> Picture:
    text = (
        f"Of {reading.tried} kinds of attackers the one farthest from the aim "
        f"(membership.{game.attack}), who may bet either way. On the grey line it guesses; the "
        f"higher above it, the more is given away. It wins {_wins(game)}"
    )
    text += f"; with retrained models {span(game.aim)}." if game.aim else "."
    tpr = reading.audit.get("after", "forget", f"membership.{game.attack}", "tpr@fpr=0.01")
    if tpr.value is None and (unseen := reading.audit.scores["after"].get("holdout")):
        text += (
            f" Too few unseen records ({unseen.records}; {nonmembers_needed(0.01)} needed) to test "
            "a very cautious attacker."
        )
    return Picture("How well the best attacker tells them apart", plots.roc(reading, game), text)


def _wins(game: Game) -> str:
    """Write the games that are won, and how many it may be."""
    text = f"{100 * game.wins:.0f} of 100 games"
    return f"{text} (between {span(game.span).replace(' to ', ' and ')})" if game.span else text


def _extraction(reading: Reading) -> Picture:
    text = (
        "Share of records likely to appear in n random answers (temperature 1, the 40 likeliest "
        "tokens)."
    )
    now = reading.row("after", "forget", "extraction.discoverable", "rate@n=10000")
    if now is not None:
        text += f" After unlearning, 10,000 answers bring {_estimate(now)}; the band is its range."
    secret = reading.row("after", "forget", "extraction.secret", "rate@n=10000")
    if secret is not None:
        text += (
            " Dashed: the sensitive value alone, told everything before it; 10,000 bring "
            f"{_estimate(secret)}"
        )
        others = reading.of_references("forget", "extraction.secret", "rate@n=10000")
        if others:
            text += f", with retrained models {percent(fmean(others))} by guessing"
        text += "."
    return Picture("How many tries get a record out", plots.extraction(reading), text)


def _balance(reading: Reading, game: Game) -> Picture:
    wins: dict[str, list[plots.Mark]] = {}
    kept: dict[str, list[plots.Mark]] = {}
    for state in reading.audit.states:
        kind = "reference" if state.startswith("reference:") else state
        label = {"reference": "retrained", "base": "base model"}.get(kind, kind)
        for row in filter(None, [reading.row(state, "retain", *WHOLE)]):
            assert row.value is not None
            low, high = (None, None) if kind == "reference" else (row.low, row.high)
            kept.setdefault(label, []).append(plots.Mark(kind, row.value, low, high))
        played = reading.game(state)
        if played is not None:
            low, high = (None, None) if kind == "reference" else played.span or (None, None)
            wins.setdefault(label, []).append(plots.Mark(kind, played.wins, low, high))
    text = "Top: how often the attacker wins. Bottom: how much of the rest is still known."
    if game.aim:
        text += " The green band is what to aim at."
    panels = [
        plots.Panel("games the attacker wins", wins, game.aim, (0.5, 1.0)),
        plots.Panel("records to keep, given back word for word", kept, None, (0.0, 1.0)),
    ]
    return Picture("Forgetting and keeping", plots.panels("balance", panels), text)


def _costs(reading: Reading) -> Picture | None:
    ours, theirs = reading.cost(["after"]), reading.cost(reading.references)
    if not ours or not theirs:
        return None
    mean = fmean(theirs)
    method = str(reading.audit.training["after"].get("method", "unlearning"))
    label = f"{method} (again)" if method == "retrain" else method
    shares = {label: (ours[0] / mean, duration(ours[0])), "retraining": (1.0, duration(mean))}
    text = f"Training time on this machine: {percent(ours[0] / mean)} of retraining"
    if len(theirs) > 1:
        text += f" ({duration(min(theirs))} to {duration(max(theirs))})"
    tokens = reading.cost(["after"], "tokens"), reading.cost(reading.references, "tokens")
    if tokens[0] and tokens[1] and fmean(tokens[1]):
        text += f"; in tokens trained on, {percent(tokens[0][0] / fmean(tokens[1]))}"
    return Picture("What it took", plots.costs(shares), text + ".")


def _estimate(row: AuditRow) -> str:
    """Write a share with its interval."""
    assert row.value is not None
    text = percent(row.value)
    if row.limits is None:
        return text
    low, high = row.limits
    return f"{text} (between {low:.0%} and {high:.0%})"


def _sections(reading: Reading, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Lay every number out: a table a split, a line a metric, a column a state."""
    sections = []
    for split, title in _SPLITS.items():
        lines: dict[tuple[str, str], None] = dict.fromkeys(
            (row.probe, row.metric) for row in reading.audit.rows if row.split == split
        )
        table = []
        for probe, metric in sorted(lines, key=_order):
            cells = [_cell(reading, column, split, probe, metric) for column in columns]
            if all(cell["value"] == "–" for cell in cells):
                continue  # the remarks say why
            table.append(
                {"probe": probe, "metric": metric, "means": meaning(probe, metric), "cells": cells}
            )
        if table:
            sections.append({"split": split, "title": title, "lines": table})
    return sections


def _order(line: tuple[str, str]) -> tuple[int, str]:
    groups = ("backdoor", "extraction", "membership", "utility")
    group = line[0].split(".")[0]
    return (groups.index(group) if group in groups else len(groups), line[0])


def _cell(reading: Reading, column: str, split: str, probe: str, metric: str) -> dict[str, Any]:
    """Write one number of one state, or the range over the references."""
    if column == "references":
        values = reading.of_references(split, probe, metric)
        if not values:
            return _missing(reading, reading.references[0], split, probe, metric)
        span = f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
        return {"value": f"{fmean(values):.2f}", "interval": span, "note": ""}
    row = reading.row(column, split, probe, metric)
    if row is None:
        return _missing(reading, column, split, probe, metric)
    interval = _interval(row)
    mark = "*" if row.interval == "conditional" else ""
    return {"value": f"{row.value:.2f}", "interval": interval + mark, "note": row.note}


def _interval(row: AuditRow) -> str:
    """Write an interval, if there is one."""
    return "" if row.limits is None else f"{row.limits[0]:.2f} to {row.limits[1]:.2f}"


def _missing(reading: Reading, state: str, split: str, probe: str, metric: str) -> dict[str, Any]:
    try:
        note = reading.audit.get(state, split, probe, metric).note
    except KeyError:
        note = ""
    return {"value": "–", "interval": "", "note": note}


def _remarks(audit: Audit) -> list[str]:
    """Say what a reader must know to read the numbers right."""
    remarks = [
        "Small numbers are 95% intervals; under retrained, the range of the models' values. "
        "Retrained models never saw the records to forget; the base model is the one before any "
        "training on the records.",
    ]
    game = Reading(audit).game()
    if game is not None:
        remarks.append(
            "Share of games won: .50 is guessing, and 0 gives the records away as surely as 1: the "
            "attacker bets the other way. Above the tables the strongest attacker's figure is "
            "turned so that it is never below 50 of 100, and its interval is wider, as the "
            f"strongest of {Reading(audit).tried} has luck on its side."
        )
    if any(row.interval == "conditional" for row in audit.rows):
        remarks.append(
            "* The records come from too few people or sources for an interval that would hold for "
            "others; this one treats the records as independent."
        )
    refused = dict.fromkeys(
        row.note
        for row in audit.rows
        if row.value is None and row.note and not (game and row.metric.startswith("tpr"))
    )
    remarks += [f"Not computed: {note}." for note in refused]
    remarks += [f"{note[:1].upper()}{note[1:]}." for note in audit.notes]
    return remarks
