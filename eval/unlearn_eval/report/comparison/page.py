"""The page of a comparison, and its numbers as CSV."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from unlearn.data.records import Record
from unlearn.provenance.lineage import now
from unlearn_eval.comparison.contests import Contest, Standings
from unlearn_eval.comparison.details import About
from unlearn_eval.comparison.lines import TableLine
from unlearn_eval.comparison.measures import MEASURES, TableMeasure
from unlearn_eval.comparison.outcomes import Comparison, Tuned
from unlearn_eval.comparison.records import CellRecords
from unlearn_eval.report.audit.page import Picture
from unlearn_eval.report.comparison import plots
from unlearn_eval.report.comparison.methods import cell_of, method_pages
from unlearn_eval.report.comparison.records import embedded, key_of
from unlearn_eval.report.comparison.words import (
    about_contest,
    about_tuning,
    advice,
    headline,
    stop_rules,
    tone_of_headline,
)
from unlearn_eval.report.page import render

__all__ = ["as_csv", "comparison_page", "shown_measures"]

_WIDE = 7.6  # inches: the first picture has the page's width to itself
_VERDICT = (
    "how many cells FAIL, stay open (?: INCONCLUSIVE) or PASS under the policy {}. FAIL: it was "
    "shown that the records leave a trace, or that the rest suffers; PASS: that neither is so to "
    "an extent that matters. Each reference is judged as if it were an unlearned model"
)
_CELL = ("gap", "auc", "forget_recall", "retain_recall", "rise", "wall_share", "tokens_share")


def comparison_page(
    comparison: Comparison,
    ranked: Standings,
    tuning: Sequence[Tuned] = (),
    about: Sequence[About] = (),
    records: Mapping[tuple[str, int, int], CellRecords] | None = None,
    texts: Mapping[str, Record] | None = None,
    *,
    own_judge: bool = False,
) -> str:
    """Return the report of a comparison as one self-contained HTML page.

    Args:
        comparison: the comparison.
        ranked: its lines, ranks and tests.
        tuning: how each method was tuned; none where the recipe's options were taken.
        about: what each row is and how its runs went, for the pages of the methods.
        records: what is known of each record, by method, seed and number of the forget set.
        texts: records by id, whose text is to be shown; None shows no text of any record.
        own_judge: whether methods looked at the very records that they are judged by.

    Returns:
        HTML; without `texts` it holds numbers, names of methods, selectors and ids of records only.
    """
    lines = ranked.lines
    measures = shown_measures(lines)
    methods = method_pages(comparison, about, measures)
    few = [MEASURES[name] for name in _CELL]
    reach = {
        name: value for name in ("gap", "rise") if (value := comparison.reach(name)) is not None
    }
    drawn = [line for line in lines if line.kind != "before"]
    return render(
        "comparison.html",
        scripts=("comparison.js", "comparison_records.js"),
        title=f"Unlearning compared: {comparison.title}",
        made=now(),
        headline=headline(comparison, lines),
        tone=tone_of_headline(lines),
        advice=advice(comparison, lines),
        summary=[
            ("wide", plots.trade_off("summary", drawn, reach, _WIDE)),
            ("narrow", plots.trade_off("small", drawn, reach)),
        ],
        verdict_means=_VERDICT.format(comparison.policy) if comparison.policy else "",
        measures=measures,
        lines=[_row(line, measures) for line in lines],
        pictures=[_ranked(contest) for contest in ranked.contests],
        methods=methods,
        anchors={page.about.name: page.anchor for page in methods},
        cells=[cell_of(outcome, few) for outcome in comparison.outcomes],
        cell_heads=[measure.head for measure in few],
        setting=comparison.setting,
        stops=stop_rules(about),
        several=len(comparison.forget_sets) > 1,
        forget_sets=list(enumerate(comparison.forget_sets)),
        records=embedded(records, texts) if records else "",
        with_records={key_of(*key) for key in records or ()},
        tuning=tuning,
        tuned_alike=about_tuning(comparison, tuning),
        exact=[name for name in comparison.methods if name in comparison.exact],
        own_judge=own_judge,
        pairs=[pair for contest in ranked.contests for pair in _pairs(contest)],
        csv=base64.b64encode(as_csv(comparison).encode()).decode(),
    )


def shown_measures(lines: Sequence[TableLine]) -> list[TableMeasure]:
    """Return the measures that some line has a number for."""
    return [m for m in MEASURES.values() if any(m.name in line.mean for line in lines)]


def as_csv(comparison: Comparison) -> str:
    """Return every number of a comparison, a row a cell."""
    everything = [*comparison.before, *comparison.references, *comparison.outcomes]
    names = list(dict.fromkeys(name for o in everything for name in o.numbers))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["method", "seed", "forget_set", "verdict", "attack", *names]
    writer.writerow([*head, "stopped", "error", "reasons"])
    for o in everything:
        numbers = [repr(o.numbers[name]) if name in o.numbers else "" for name in names]
        text = [_plain(t) for t in (o.stopped, o.error, "; ".join(o.ruling.reasons))]
        whose = [_plain(o.method), o.seed, o.forget, o.ruling.outcome]
        writer.writerow([*whose, o.attack, *numbers, *text])
    return file.getvalue()


def _plain(text: str) -> str:
    """Keep a spreadsheet from taking text for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _row(line: TableLine, measures: Sequence[TableMeasure]) -> dict[str, Any]:
    cells = []
    for measure in measures:
        value = line.mean.get(measure.name)
        cells.append(
            {
                "value": "" if value is None else repr(value),
                "text": measure.text(value),
                "spread": f"± {measure.text(line.spread[measure.name])}"
                if measure.name in line.spread
                else "",
            }
        )
    failing = "" if line.failing is None else repr(line.failing)
    return {"line": line, "cells": cells, "failing": failing}


def _ranked(contest: Contest) -> Picture:
    title = {"gap": "Ranks in forgetting", "rise": "Ranks in keeping the rest"}
    return Picture(
        title.get(contest.measure, contest.measure),
        plots.ranks(f"ranks-{contest.measure}", contest),
        f"Filled dots are within the critical difference of the best. {about_contest(contest)}",
    )


def _pairs(contest: Contest) -> list[dict[str, str]]:
    """Lay out the tests of the best-ranked method against each other one."""
    measure = MEASURES[contest.measure]
    return [
        {
            "measure": measure.head,
            "first": pair.first,
            "second": pair.second,
            "mean": f"{pair.mean:+.3f}".replace("-", "−"),
            "p": f"{pair.p_value:.3g}",
            "adjusted": f"{pair.adjusted:.3g}",
            "cells": str(pair.cells),
        }
        for pair in contest.pairs
        if pair.first == contest.methods[0]
    ]
