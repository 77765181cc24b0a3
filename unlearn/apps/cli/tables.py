"""Tables of audits and comparisons on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlearn.apps.cli.screen import console, show_note, table

if TYPE_CHECKING:
    from unlearn_eval.audit.run import Audit, AuditRow

__all__ = ["audit_table", "estimate"]

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


def estimate(row: AuditRow) -> str:
    """Write a value with its interval: `0.52 [0.43, 0.61]`."""
    if row.value is None:
        return "–"
    text = f"{row.value:.2f}"
    if row.low is not None and row.high is not None:
        mark = "*" if row.interval == "conditional" else ""
        text += f" [{row.low:.2f}, {row.high:.2f}]{mark}"
    return text


def audit_table(audit: Audit) -> None:
    """Print the headline numbers of an audit, a column a state."""
    states = list(audit.states)
    plain = [r for r in audit.rows if (r.prompt_state, r.deployment) == ("verbatim", "as-is")]
    found = {(r.state, r.split, r.probe, r.metric): r for r in plain}
    rows = []
    for split, probe, metric, label in _HEADLINES:
        cells = [found.get((state, split, probe, metric)) for state in states]
        if any(cells):
            rows.append([label, *(estimate(row) if row else "" for row in cells)])
    table("What is left (95 % intervals)", ["", *states], rows)
    if any(row.interval == "conditional" for row in found.values()):
        console.print(
            "  * too few subjects for an interval that holds for new ones: treats records as "
            "independent"
        )
    refused = [row.note for row in found.values() if row.value is None and row.metric == "auc"]
    for note in dict.fromkeys([*refused, *audit.notes]):
        show_note(note)
