"""Measure what a language model still knows about given records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlearn.faces import lazy

if TYPE_CHECKING:
    from unlearn_eval.audit.run import Audit, AuditRow, audit_rows, run_audit
    from unlearn_eval.extraction import PROBES
    from unlearn_eval.membership import ATTACKS
    from unlearn_eval.scores.token_scores import TokenScores

__all__ = [
    "ATTACKS",
    "PROBES",
    "Audit",
    "AuditRow",
    "TokenScores",
    "audit_rows",
    "run_audit",
]

__getattr__ = lazy(
    __name__,
    {
        "ATTACKS": "membership",
        "PROBES": "extraction",
        "Audit": "audit.run",
        "AuditRow": "audit.run",
        "TokenScores": "scores.token_scores",
        "audit_rows": "audit.run",
        "run_audit": "audit.run",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
