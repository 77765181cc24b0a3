"""Who is the twin of whom: files of twins, and the pairs that an audit of canaries holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn.canaries.pairs import Canaries
from unlearn.data.records import Records
from unlearn.errors import DataError
from unlearn.provenance.keys import Key
from unlearn_eval.verdict.pairs import canaries_of, check_file, twins_of

from .conftest import matrix

AFTER = {"forget": matrix(np.full(3, -6.0), "f"), "holdout": matrix(np.full(6, -6.0), "h")}


@pytest.fixture
def twins(tmp_path: Path) -> Any:
    """Read a file of twins with this content."""
    path = tmp_path / "twins.json"

    def read(content: Any, after: Any = AFTER) -> Any:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return twins_of(path, after)

    return read


def test_twins_are_positions_in_the_holdout_in_the_order_of_the_records(twins: Any) -> None:
    found, claimed = twins({"twins": {"f2": ["h0", "h5"], "f0": ["h4", "h1"], "f1": ["h2", "h3"]}})
    assert found.positions.tolist() == [[4, 1], [2, 3], [0, 5]]
    assert found.positions.dtype == np.int64
    assert (found.randomised, claimed) == (False, False)
    # a single twin may stand for itself, and records that were not measured are passed over
    found, claimed = twins(
        {"twins": {"f0": "h1", "f1": "h0", "f2": ["h2"], "f9": "x"}, "randomised": True}
    )
    assert found.positions.tolist() == [[1], [0], [2]]
    # that a coin chose, a file can only say
    assert (found.randomised, claimed) == (False, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a file of twins: NotJsonError"),
        ("[]", "not a file of twins: TypeError"),
        ({"pairs": {}}, "not a file of twins: KeyError"),
        ({"twins": ["f0"]}, "not a file of twins: AttributeError"),
        ({"twins": {"f0": 1}}, "not a file of twins: TypeError"),
        ({"twins": {"f0": "h0", "f2": "h1"}}, "no twins of record 'f1'"),
        ({"twins": {"f0": "h0", "f1": "h9", "f2": "h1"}}, "the twin 'h9' of 'f1' is not in the"),
        ({"twins": {"f0": "h0", "f1": ["h2", "h3"], "f2": "h1"}}, "needs the same number of"),
        ({"twins": {"f0": [], "f1": [], "f2": []}}, "needs the same number of twins, one or more"),
        ({"twins": {"f0": "h0", "f1": "h1", "f2": "h0"}}, "'h0' is a twin of 'f0' and again of"),
        ({"twins": {"f0": ["h0", "h1"], "f1": ["h2", "h3"], "f2": ["h4", "h2"]}},
         "'h2' is a twin of 'f1' and again of 'f2'"),
    ],
)  # fmt: skip
def test_files_that_name_no_twins_are_refused(twins: Any, content: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        twins(content)
    assert "twins.json: " in str(caught.value)
    assert message in str(caught.value)
    if "not a file" in message:
        assert str(caught.value).endswith('it holds {"twins": {"forget id": ["holdout id"]}}')


def test_without_a_holdout_no_twin_is_there(twins: Any) -> None:
    with pytest.raises(DataError, match="the twin 'h0' of 'f0' is not in the holdout"):
        twins({"twins": {"f0": "h0", "f1": "h1", "f2": "h2"}}, {"forget": AFTER["forget"]})


NOTED = {"sha256": "00ff", "pairs": {"f1": "h0", "f0": "h2", "f2": "h1"}}


def test_the_pairs_of_an_audit_of_canaries_were_chosen_by_a_coin() -> None:
    found = canaries_of(Path("audit.json"), NOTED, AFTER)
    assert found.positions.tolist() == [[2], [0], [1]]
    assert found.randomised


@pytest.mark.parametrize(
    "noted",
    [
        {**NOTED, "sha256": ""},
        {"pairs": NOTED["pairs"]},
        {**NOTED, "pairs": {"f0": "h0", "f1": "h1"}},
        {**NOTED, "pairs": {**NOTED["pairs"], "f3": "h3"}},  # type: ignore[dict-item]
        {**NOTED, "pairs": ["f0"]},
        {"sha256": "00ff"},
        3,
    ],
)
def test_other_pairs_than_were_measured_are_refused(noted: Any) -> None:
    with pytest.raises(DataError, match=r"^audit\.json, canaries: not the pairs that were measure"):
        canaries_of(Path("audit.json"), noted, AFTER)


def test_the_file_of_canaries_is_compared_with_what_the_audit_noted(tmp_path: Path) -> None:
    records = Records.from_rows([{"id": "a", "prompt": "Who?", "completion": "Ann."}], "here")
    canaries = Canaries.draw(records, 4, Key(bytes(32)), bytes(range(32)))
    file = tmp_path / "canaries.json"
    canaries.publish(file)
    digest = canaries.commitment.sha256
    pairs = {pair.included.id: pair.left_out.id for pair in canaries.pairs}
    check_file(file, {"sha256": digest, "pairs": pairs})
    with pytest.raises(DataError, match=r"canaries\.json is not the file .*SHA-256 123456789abc…"):
        check_file(file, {"sha256": "123456789abcdef", "pairs": pairs})
    swapped = {**pairs, **{pairs[name]: name for name in list(pairs)[:2]}}
    with pytest.raises(DataError, match=r"canaries\.json: 2 pair\(s\) of the audit are not as"):
        check_file(file, {"sha256": digest, "pairs": swapped})
