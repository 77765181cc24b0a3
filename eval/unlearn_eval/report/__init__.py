"""Audits as pages: one file, no network, for people rather than programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlearn.faces import lazy

if TYPE_CHECKING:
    from unlearn_eval.report.audit.page import audit_page, in_a_sentence
    from unlearn_eval.report.story import (
        COLUMNS,
        Attempt,
        OutcomeLine,
        outcome,
        story_page,
        uncertain,
    )
    from unlearn_eval.report.texts import ShownRecord, shown_records

__all__ = [
    "COLUMNS",
    "Attempt",
    "OutcomeLine",
    "ShownRecord",
    "audit_page",
    "in_a_sentence",
    "outcome",
    "shown_records",
    "story_page",
    "uncertain",
]

__getattr__ = lazy(
    __name__,
    {
        "Attempt": "story",
        "COLUMNS": "story",
        "OutcomeLine": "story",
        "ShownRecord": "texts",
        "audit_page": "audit.page",
        "in_a_sentence": "audit.page",
        "outcome": "story",
        "shown_records": "texts",
        "story_page": "story",
        "uncertain": "story",
    },
)
