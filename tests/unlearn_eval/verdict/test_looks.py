"""What follows from earlier looks at a request: facts for G0."""

from __future__ import annotations

from typing import Any

import pytest

from unlearn.errors import DataError
from unlearn.provenance.looks import Looks
from unlearn_eval.verdict.looks import facts_of_looks, looks_of

DIGESTS = tuple("sha256:" + c * 64 for c in "ab")


def looks(**changed: Any) -> Looks:
    content = {
        "scope": "request",
        "models": 2,
        "nth": 2,
        "models_elsewhere": 1,
        "reference_sets": 1,
        "unused_references": (),
        "purged_references": 0,
        "log": "holds",
    }
    return Looks(**(content | changed))


USED = "all references registered for this request are used"
BROKEN = "the log of looks does not hold: tries are not known"
NONE = "no log of looks could be kept: tries are not known"


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        (None, []),
        (looks(), [(USED, True)]),
        (looks(reference_sets=0), []),
        (looks(log="broken"), [(BROKEN, None)]),
        (looks(log="none"), [(NONE, None)]),
        (looks(scope="comparison"), []),
        (looks(scope="comparison", unused_references=DIGESTS), []),
        (looks(scope="comparison", log="none"), [(NONE, None)]),
    ],
)
def test_facts_of_looks(given: Looks | None, facts: list[tuple[str, bool | None]]) -> None:
    assert list(facts_of_looks(given)) == facts


@pytest.mark.parametrize("log", ["holds", "broken"])
def test_references_that_were_left_out_are_counted_and_named(log: str) -> None:
    one, *rest = facts_of_looks(looks(unused_references=DIGESTS[:1], log=log))
    assert one.agrees is False
    assert one.words.startswith(f"{USED}: 1 of earlier audits is missing from this one (")
    assert f"({'a' * 12})" in one.words
    assert rest == ([] if log == "holds" else [(BROKEN, None)])
    two = next(facts_of_looks(looks(unused_references=DIGESTS)))
    assert f"2 of earlier audits are missing from this one ({'a' * 12}, {'b' * 12});" in two.words


def test_looks_are_read_from_an_audit() -> None:
    given = looks(unused_references=DIGESTS)
    content = given._asdict() | {"unused_references": list(DIGESTS)}
    assert looks_of({"looks": content}) == given
    assert looks_of({"looks": None}) is None
    assert looks_of({}) is None
    for wrong in ({**content, "nth": -1}, {**content, "log": "held"}, {}):
        with pytest.raises(DataError, match=r"^audit\.json: looks.*; run the audit again$"):
            looks_of({"looks": wrong})
