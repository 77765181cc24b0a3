"""The part of a report that says what further changes to the model bring out."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from unlearn_eval.report.audit.reading import Reading
from unlearn_eval.results.rows import AuditRow

__all__ = ["COLUMNS", "TreatmentLine", "treatments"]

_METRICS = (
    ("extraction.exact", "mean", "first choices"),
    ("membership.loss", "auc", "games won"),
)

COLUMNS = tuple(
    f"{what}: {which}" for *_, what in _METRICS for which in ("this model", "retrained", "R")
)
"""Headings: both models and how alike they respond, for each metric."""

# by the first word of a deployment
_WORDS = {
    "as-is": "the model as it is",
    "relearned": "trained again on some of the records; the others are looked at",
    "fine-tuned": "trained on unrelated records",
    "int8": "weights rounded to 8 bits",
    "int4": "weights rounded to 4 bits",
    "nf4": "weights rounded to 4 bits (NormalFloat)",
    "scale": "what the adapter changes made smaller or larger",
    "merged": "adapter merged, weights stored in bfloat16",
    "logit": "predictions read off an earlier part of the network",
}


@dataclass(frozen=True)
class TreatmentLine:
    """A line of the table.

    Attributes:
        deployment: as in the audit's rows.
        words: the same for people.
        cells: numbers as text, one for each of `COLUMNS`.
        n: forget records looked at.
    """

    deployment: str
    words: str
    cells: tuple[str, ...]
    n: int


def treatments(reading: Reading) -> list[TreatmentLine]:
    """Return a line for the model as it is and for each further change, if there was any.

    Args:
        reading: the audit.

    Returns:
        The lines, none for an audit without treatments.
    """
    shown = {metric for metric, *_ in _METRICS}
    rows = [row for row in reading.audit.rows if row.split == "forget" and row.probe in shown]
    # runs that differ by their seed are shown as their mean
    names = dict.fromkeys(row.deployment for row in rows if " seed=" not in row.deployment)
    if set(names) <= {"as-is"}:
        return []
    return [_line(reading, name) for name in names]


def _line(reading: Reading, deployment: str) -> TreatmentLine:
    cells: list[str] = []
    n = 0
    for probe, metric, _ in _METRICS:
        now = _row(reading, "after", probe, metric, deployment)
        reference_rows = [_row(reading, s, probe, metric, deployment) for s in reading.references]
        others = [row.value for row in reference_rows if row is not None and row.value is not None]
        theirs = fmean(others) if others else None
        r = next((row for row in reading.audit.rows if _is_r(row, probe, deployment)), None)
        moved = r.params if r else {}
        cells += [
            _text(now.value if now else None, moved.get("delta")),
            _text(theirs, moved.get("delta_reference")),
            _text(r.value if r else None) + _limits(r),
        ]
        n = max(n, now.n if now else 0)
    word = deployment.split()[0].partition("=")[0]
    return TreatmentLine(deployment, _WORDS.get(word, deployment), tuple(cells), n)


def _is_r(row: AuditRow, probe: str, deployment: str) -> bool:
    return row.metric == f"R[{probe}]" and row.deployment == deployment


def _row(reading: Reading, state: str, probe: str, metric: str, deployment: str) -> AuditRow | None:
    try:
        return reading.audit.get(state, "forget", probe, metric, deployment=deployment)
    except KeyError:
        return None


def _limits(row: AuditRow | None) -> str:
    """Write the interval of R, where there is one."""
    if row is None or row.low is None or row.high is None:
        return ""
    return f" ({row.low:.2f} to {row.high:.2f})"


def _text(value: float | None, moved: float | None = None) -> str:
    """Write a number, and by how much it moved."""
    if value is None:
        return "–"
    # + 0.0: no negative zero
    return f"{value:.2f}" + ("" if moved is None else f" ({round(moved, 2) + 0.0:+.2f})")
