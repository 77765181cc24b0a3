"""The page of one audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from unlearn import lineage as lin
from unlearn_eval._table import Audit, AuditRow
from unlearn_eval.report import plots
from unlearn_eval.report._page import render
from unlearn_eval.report.reading import Reading
from unlearn_eval.report.texts import ShownRecord
from unlearn_eval.report.words import answers, duration, headline, meaning, percent

__all__ = ["Picture", "audit_page", "in_a_sentence"]

_SPLITS = {
    "forget": "Records to forget",
    "retain": "Records to keep",
    "holdout": "Records never seen",
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
    found = answers(reading)
    states = [s for s in ("before", "after") if reading.has(s)]
    tail = ["references"] if reading.references else []
    tail += ["base"] if reading.has("base") else []
    return render(
        "audit.html",
        title="What does the model still know?",
        audit=audit,
        made=lin.now(),
        counts={
            label: audit.scores["after"][split].records
            for split, label in _SPLITS.items()
            if split in audit.scores["after"]
        },
        headline=headline(found)[0],
        tone=headline(found)[1],
        answers=found,
        pictures=_pictures(reading),
        columns=[*states, *tail],
        sections=_sections(reading, [*states, *tail]),
        texts=texts,
        remarks=_remarks(audit),
    )


def in_a_sentence(audit: Audit) -> str:
    """Return what an audit found in a sentence or two, as the report's headline says it.

    Args:
        audit: the audit.

    Returns:
        Text without markup.
    """
    return headline(answers(Reading(audit)))[0]


def _pictures(reading: Reading) -> list[Picture]:
    """Draw everything the audit has numbers for."""
    found = [_scores(reading)]
    attack = reading.strongest
    if attack is not None:
        found += [_roc(reading, attack)]
    found.append(_extraction(reading))
    if attack is not None and (picture := _tradeoff(reading, attack)):
        found.append(picture)
    if picture := _costs(reading):
        found.append(picture)
    return found


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
            text += f"; a model that never saw the forgotten ones puts them at {mean:.2f}"
    return Picture("How well the model knows each record", plots.scores(reading), text + ".")


def _roc(reading: Reading, attack: str) -> Picture:
    place = ("forget", f"membership.{attack}", "auc")
    row = reading.row("after", *place)
    assert row is not None
    aim = reading.expected(place[1])
    tried = len({r.probe for r in reading.audit.rows if r.state == "after" and r.metric == "auc"})
    text = (
        f"Of {tried} attacks the one farthest from the aim (membership.{attack}). On the diagonal "
        "it guesses; above it, the records are recognised as once known, below it as "
        "suspiciously unknown. "
        f"Area under the curve {_estimate(row)}; aim {aim:.2f}"
        f" ({'the references' if reading.references else 'guessing'})."
    )
    tpr = reading.audit.get("after", "forget", place[1], "tpr@fpr=0.01")
    if tpr.value is None and tpr.note:
        text += f" At 1% false positives nothing is said: {tpr.note}."
    return Picture("How well the best attack tells them apart", plots.roc(reading), text)


def _extraction(reading: Reading) -> Picture:
    text = (
        "The share of the records to forget that n random answers (temperature 1, the 40 likeliest "
        "tokens) would contain more likely than not."
    )
    now = reading.row("after", "forget", "extraction.discoverable", "rate@n=10000")
    if now is not None:
        text += f" After unlearning, 10,000 tries bring {_estimate(now)}; the band is its interval."
    secret = reading.row("after", "forget", "extraction.secret", "rate@n=100")
    if secret is not None:
        text += (
            " Dashed: its sensitive value alone, told everything before it; 100 tries bring "
            f"{_estimate(secret)}."
        )
        others = reading.of_references("forget", "extraction.secret", "rate@n=100")
        if others:
            text += f" By guessing, models that never saw them bring {fmean(others):.2f}."
    return Picture("How many tries get a record out", plots.extraction(reading), text)


def _tradeoff(reading: Reading, attack: str) -> Picture | None:
    points = []
    for state in reading.audit.states:
        utility = reading.row(state, "retain", "extraction.exact", "mean")
        auc = reading.row(state, "forget", f"membership.{attack}", "auc")
        if utility is not None and auc is not None:
            kind = "reference" if state.startswith("reference:") else state
            label = {"reference": "reference", "base": "base model"}.get(kind, kind)
            points.append((label, kind, utility, auc))
    if not points:
        return None
    aim = reading.expected(f"membership.{attack}")
    now = next((p for p in points if p[1] == "after"), None)
    text = (
        "To the right is good: the rest is still known. The dotted line is the aim for forgetting, "
        f"{aim:.2f}; above it and below it the records stand out."
    )
    if now is not None:
        text += f" After unlearning: {_estimate(now[2])} kept, AUC {_estimate(now[3])}."
    return Picture("Forgetting against keeping", plots.tradeoff(points, aim), text)


def _costs(reading: Reading) -> Picture | None:
    ours, theirs = reading.cost(["after"]), reading.cost(reading.references)
    if not ours or not theirs:
        return None
    mean = fmean(theirs)
    method = str(reading.audit.training["after"].get("method", "unlearning"))
    label = f"{method} (again)" if method == "retrain" else method
    shares = {label: (ours[0] / mean, duration(ours[0])), "retraining": (1.0, duration(mean))}
    text = f"Training time on this machine: {percent(ours[0] / mean)} of retraining's"
    if len(theirs) > 1:
        text += f" (references: {duration(min(theirs))} to {duration(max(theirs))})"
    tokens = reading.cost(["after"], "tokens"), reading.cost(reading.references, "tokens")
    if tokens[0] and tokens[1] and fmean(tokens[1]):
        text += f"; in tokens trained on, {percent(tokens[0][0] / fmean(tokens[1]))}"
    return Picture("What it took", plots.costs(shares), text + ".")


def _estimate(row: AuditRow) -> str:
    """Write a value with its interval."""
    if row.value is None:
        return "–"
    text = f"{row.value:.2f}"
    return (
        text if row.low is None or row.high is None else f"{text} [{row.low:.2f}, {row.high:.2f}]"
    )


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
    groups = ("extraction", "membership", "utility")
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
    interval = "" if row.low is None else f"{row.low:.2f} to {row.high:.2f}"
    mark = "*" if row.interval == "conditional" else ""
    return {"value": f"{row.value:.2f}", "interval": interval + mark, "note": row.note}


def _missing(reading: Reading, state: str, split: str, probe: str, metric: str) -> dict[str, Any]:
    try:
        note = reading.audit.get(state, split, probe, metric).note
    except KeyError:
        note = ""
    return {"value": "–", "interval": "", "note": note}


def _remarks(audit: Audit) -> list[str]:
    """Say what a reader must know to read the numbers right."""
    found = [
        "Intervals are 95% intervals; that of references is the range of their values.",
        "Numbers describe these records, prompts and attacks. That nothing was found does not "
        "prove that nothing is there: a stronger attack could find what these did not.",
    ]
    if any(row.interval == "conditional" for row in audit.rows):
        found.append(
            "* The records come from too few people or sources for an interval that would hold for "
            "others; this one treats the records as independent."
        )
    refused = dict.fromkeys(row.note for row in audit.rows if row.value is None and row.note)
    found += [f"Not computed: {note}." for note in refused]
    found += [f"{note[:1].upper()}{note[1:]}." for note in audit.notes]
    return found
