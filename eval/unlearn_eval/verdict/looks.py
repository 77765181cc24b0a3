"""What an audit holds of earlier looks at its request, and what follows for a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unlearn.errors import DataError
from unlearn.provenance.looks import Looks
from unlearn_eval.certificate.schema import LOOKS
from unlearn_eval.certificate.shape import Maybe, MisfitError, fit
from unlearn_eval.verdict.evidence import ProvenanceFact

__all__ = ["facts_of_looks", "looks_of"]

_ALL_USED = "all references registered for this request are used"
_NOT_KNOWN = {
    "broken": "the log of looks does not hold: tries are not known",
    "none": "no log of looks could be kept: tries are not known",
}
_SHOWN = 12


def looks_of(audit: Mapping[str, Any]) -> Looks | None:
    """Return how often a request was looked at, by the content of `audit.json`.

    Raises DataError if that is not what an audit writes.
    """
    try:
        content = fit(audit.get("looks"), Maybe(LOOKS), "looks")
    except MisfitError as error:
        raise DataError(f"audit.json: {error}; run the audit again") from None
    if content is None:
        return None
    return Looks(**{**content, "unused_references": tuple(content["unused_references"])})


def facts_of_looks(looks: Looks | None) -> Iterator[ProvenanceFact]:
    """Yield whether references were left out, and whether tries are known.

    A comparison of methods is no request: each may have references of its own.

    Args:
        looks: of an audit; None for one from before they were counted, which says nothing.

    Yields:
        Facts for G0.
    """
    if looks is None:
        return
    unused = looks.unused_references
    if looks.scope == "request":
        if unused:
            names = ", ".join(digest.removeprefix("sha256:")[:_SHOWN] for digest in unused)
            words = (
                f"{_ALL_USED}: {len(unused)} of earlier audits {_are(len(unused))} missing from "
                f"this one ({names}); run `unlearn audit` with all of them"
            )
            yield ProvenanceFact(words, False)
        elif looks.log == "holds" and looks.reference_sets:
            yield ProvenanceFact(_ALL_USED, True)
    if looks.log != "holds":
        yield ProvenanceFact(_NOT_KNOWN[looks.log], None)


def _are(n: int) -> str:
    return "is" if n == 1 else "are"
