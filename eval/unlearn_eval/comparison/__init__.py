"""Several methods side by side: what each cell shows, tests between methods, which to use when.

Pure functions of audit rows and numbers; nothing here sees a model, or imports torch or scipy
before a test is asked for.
"""

from __future__ import annotations

from unlearn_eval.comparison.details import About, Curve, Run
from unlearn_eval.comparison.lines import TableLine, lines
from unlearn_eval.comparison.measures import MEASURES, TableMeasure
from unlearn_eval.comparison.outcomes import (
    Comparison,
    Outcome,
    Ruling,
    Tuned,
    aim_of,
    forgetting,
    numbers_of,
    revived,
    trials_of,
    untried,
)

__all__ = [
    "MEASURES",
    "About",
    "Comparison",
    "Curve",
    "Outcome",
    "Ruling",
    "Run",
    "TableLine",
    "TableMeasure",
    "Tuned",
    "aim_of",
    "forgetting",
    "lines",
    "numbers_of",
    "revived",
    "trials_of",
    "untried",
]
