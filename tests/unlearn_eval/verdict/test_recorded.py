"""Whole verdicts on small requests, compared with what was recorded: numbers and words.

They say that nothing changed unnoticed, and the other tests of this folder what is right. After a
change that was meant, `RECORD=1 python -m pytest tests/unlearn_eval/verdict/test_recorded.py`
writes recorded/ anew: read what `git diff` shows before it is kept.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from unlearn_eval.statistics import records_for_equivalence
from unlearn_eval.verdict.decision import decide, leave_one_out

from .cases import CASES, matched_twins, policy

RECORDED = Path(__file__).with_name("recorded")


def compared(name: str, content: Mapping[str, Any]) -> None:
    """Compare with what was recorded: floats up to rounding, all else exactly."""
    file = RECORDED / f"{name}.json"
    content = json.loads(json.dumps(content))
    if os.environ.get("RECORD"):
        RECORDED.mkdir(exist_ok=True)
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    expected = dict(flat(json.loads(file.read_text(encoding="utf-8"))))
    found = dict(flat(content))
    assert {k: v for k, v in found.items() if k not in expected or not same(v, expected[k])} == {}
    assert found.keys() == expected.keys()


def same(value: Any, expected: Any) -> bool:
    """Say whether two values are the same, floats up to rounding."""
    if isinstance(value, float) and isinstance(expected, (int, float)):
        return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9)
    return type(value) is type(expected) and value == expected


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its place; empty lists and objects as themselves."""
    if not isinstance(value, (dict, list)) or not value:
        yield place, value
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from flat(item, f"{place}.{key}")


@pytest.mark.parametrize("name", CASES)
def test_a_verdict_as_recorded(name: str) -> None:
    given, rules = CASES[name]()
    found = decide(given, rules, name="mine", chosen="before", audit_sha256="00ff", created="now")
    content = found.as_dict()
    assert content["policy"].pop("content") == rules.content
    compared(name, content)


def test_what_is_not_said_of_a_verdict_stays_open() -> None:
    found = decide(*CASES["by_references"]())
    assert (found.policy["name"], found.policy["chosen"]) == ("", "after")
    assert (found.audit_sha256, found.created, found.replay) == ("", "", None)


def test_each_reference_by_the_others_as_recorded() -> None:
    given, _ = CASES["by_references"]()
    found = leave_one_out(given, policy(min_references=5, margin=3.0))
    assert found.counts.total() == 5
    compared("leave_one_out", {
        "counts": dict(found.counts),
        "probes": [[each.as_dict()["probes"], each.as_dict()["utility"]]
                   for each in found.verdicts],
    })  # fmt: skip


def test_as_many_records_are_asked_for_as_their_own_number_of_twins_needs() -> None:
    given, _ = matched_twins()  # two twins a record
    needed = records_for_equivalence(0.05, 2, 0.05)
    advice = "; ".join(decide(given, policy(delta=0.05, alpha=0.05)).would_decide)
    assert f"{needed} independent records with 2 twin(s) each" in advice
