"""The headline numbers of an audit as a table of text: what a terminal shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from unlearn_eval.report.audit.headline import Headline
from unlearn_eval.report.audit.page import news
from unlearn_eval.results.rows import Audit, AuditRow

__all__ = ["Summary", "estimate", "summary"]

# What a reader wants first: (split, probe, metric, label)
_HEADLINES = (
    ("forget", "extraction.verbatim", "rate", "forget: recalled word for word"),
    ("forget", "extraction.strength", "mean", "forget: extraction strength"),
    ("forget", "extraction.exact", "mean", "forget: tokens predicted exactly"),
    ("forget", "utility.loss", "mean", "forget: loss (nats a token)"),
    ("forget", "membership.loss", "auc", "forget against holdout: loss AUC"),
    ("forget", "membership.reference", "auc", "forget against holdout: base-difference AUC"),
    ("retain", "extraction.verbatim", "rate", "retain: recalled word for word"),
    ("retain", "utility.loss", "mean", "retain: loss"),
    ("holdout", "utility.loss", "mean", "holdout: loss"),
)

# Of each pass for --also the number that tells most.
_PASSES = (
    ("forget", "extraction.exposure", "mean", "forget: exposure (bits)"),
    ("forget", "membership.grad_norm", "auc", "forget against holdout: gradient AUC"),
    ("forget", "membership.recall", "auc", "forget against holdout: ReCaLL AUC"),
    ("forget", "membership.con_recall", "auc", "forget against holdout: Con-ReCall AUC"),
    ("forget", "membership.neighbourhood", "auc", "forget against holdout: neighbourhood AUC"),
    ("forget", "utility.truth_ratio", "indifference", "forget: truth told from falsehood (1: not)"),
    ("retain", "utility.truth_ratio", "preference", "retain: truth preferred to falsehood"),
    ("triggered", "backdoor.attack_success", "rate", "trigger: answered with the target"),
    ("near_miss", "backdoor.attack_success", "rate", "what resembles it: the same"),
    ("untriggered", "backdoor.attack_success", "rate", "no trigger: the same"),
    ("triggered", "utility.loss", "mean", "trigger: loss of the target"),
)


def estimate(row: AuditRow) -> str:
    """Write a value with its interval: `0.52 [0.43, 0.61]`."""
    if row.value is None:
        return "–"
    text = f"{row.value:.2f}"
    if row.limits is not None:
        mark = "*" if row.interval == "conditional" else ""
        text += f" [{row.limits[0]:.2f}, {row.limits[1]:.2f}]{mark}"
    return text


class Summary(NamedTuple):
    """A table with a column a state, and what is to know of its numbers.

    Attributes:
        heads: names of the columns.
        rows: a label, then a number with its interval for each state.
        conditional: whether an interval takes records for independent.
        notes: why numbers were refused, and the audit's own notes.
        headline: what they come to, with the tone of the verdict on the same scores.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    conditional: bool
    notes: Sequence[str]
    headline: Headline


def summary(audit: Audit) -> Summary:
    """Sum an audit up: its headline numbers, and of each pass that was asked for one."""
    states = list(audit.states)
    plain = [r for r in audit.rows if (r.prompt_state, r.deployment) == ("verbatim", "as-is")]
    by_name = {(r.state, r.split, r.probe, r.metric): r for r in plain}
    rows = []
    for split, probe, metric, label in (*_HEADLINES, *_PASSES):
        cells = [by_name.get((state, split, probe, metric)) for state in states]
        if any(cells):
            rows.append([label, *(estimate(row) if row else "" for row in cells)])
    refused = [row.note for row in by_name.values() if row.value is None and row.metric == "auc"]
    return Summary(
        ["", *states],
        rows + _otherwise(audit, states),
        any(row.interval == "conditional" for row in by_name.values()),
        list(dict.fromkeys([*refused, *audit.notes])),
        news(audit),
    )


def _otherwise(audit: Audit, states: Sequence[str]) -> list[list[str]]:
    """Return what comes out word for word when asked otherwise, or of a changed model."""
    _, probe, metric, label = _HEADLINES[0]
    cells = {
        (row.prompt_state, row.deployment, row.state): row
        for row in audit.rows
        if (row.split, row.probe, row.metric) == ("forget", probe, metric)
    }
    ways = dict.fromkeys(key[:2] for key in cells if key[:2] != ("verbatim", "as-is"))
    rows = []
    for prompt_state, deployment in ways:
        how = deployment if prompt_state == "verbatim" else prompt_state
        values = [cells.get((prompt_state, deployment, state)) for state in states]
        rows.append([f"{label} ({how})", *(estimate(row) if row else "" for row in values)])
    return rows
