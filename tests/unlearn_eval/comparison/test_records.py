"""What is read of each record, and what of it a page holds."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearn.data.records import Record, Secret
from unlearn.errors import DataError
from unlearn_eval.comparison.records import CellRecords, chosen, read_records, records_table
from unlearn_eval.report.comparison.records import embedded


def scores(*rows):
    """A table as audits write it, with (state, split, id, log_prob, hit, prompt, deployment)."""
    names = ["state", "split", "id", "log_prob", "hit", "prompt_state", "deployment"]
    plain = [(*row, *("verbatim", "as-is")[len(row) - 5 :]) for row in rows]
    table = pa.table(dict(zip(names, map(list, zip(*plain, strict=True)), strict=True)))
    for i, inner in ((3, pa.float64()), (4, pa.bool_())):
        column = table.column(i).cast(pa.large_list(inner))
        table = table.set_column(i, names[i], column)
    return table


def test_losses_by_hand_with_what_is_to_forget_first(tmp_path):
    path = tmp_path / "scores.parquet"
    known, lost = [True, True], [True, False]
    table = scores(
        ("before", "retain", "k", [-1.0, -1.0], known),
        ("before", "forget", "f", [-0.5, -1.5], known),
        ("after", "retain", "k", [-1.0, -2.0], lost),
        ("after", "forget", "f", [-np.inf, -1.0], lost),
        ("after", "forget", "g", [-1.0], [True]),
        ("after", "forget", "f", [-9.0], [True], "few_shot"),
        ("after", "forget", "f", [-9.0], [True], "verbatim", "int8"),
        ("reference:0", "forget", "f", [-2.0, -4.0], lost),
        ("reference:0", "forget", "g", [-2.0], [False]),
        ("reference:0", "retain", "k", [-1.0, -1.0], known),
        ("reference:1", "retain", "k", [-3.0, -3.0], known),
        ("reference:1", "forget", "g", [-4.0], [False]),
        ("reference:1", "forget", "f", [-4.0, -6.0], lost),
    )
    pq.write_table(table, path, row_group_size=4)  # in several chunks
    found = read_records(path)
    assert found.ids == ["f", "g", "k"]
    assert found.splits == ["forget", "forget", "retain"]
    np.testing.assert_array_equal(found.before, [1.0, np.nan, 1.0])
    np.testing.assert_array_equal(found.after, [np.inf, 1.0, 1.5])
    np.testing.assert_array_equal(found.references, [4.0, 3.0, 2.0])
    assert found.recalled.tolist() == [False, True, False]
    assert records_table([("npo", 3, 1, found)]).to_pylist()[1] == {
        "method": "npo",
        "seed": 3,
        "forget_set": 1,
        "split": "forget",
        "id": "g",
        "loss_before": pytest.approx(np.nan, nan_ok=True),
        "loss": 1.0,
        "loss_references": 3.0,
        "recalled": True,
    }
    assert records_table([]).num_rows == 0


def test_what_is_no_audit_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot read scores"):
        read_records(tmp_path / "none.parquet")
    pq.write_table(scores(("before", "forget", "f", [-1.0], [True])), tmp_path / "odd.parquet")
    with pytest.raises(DataError, match="'after'"):
        read_records(tmp_path / "odd.parquet")


def records(**counts):
    splits = [split for split, n in counts.items() for _ in range(n)]
    values = np.arange(float(len(splits)))
    ids = [f"{split}{i}" for i, split in enumerate(splits)]
    return CellRecords(ids, splits, values, values, values, values > 1)


def test_records_to_forget_come_first_and_the_others_share_the_rest():
    assert chosen(records(forget=3, retain=4), 200) == list(range(7))
    assert chosen(records(forget=300, retain=4), 200) == [i * 300 // 200 for i in range(200)]
    found = chosen(records(forget=20, retain=400, holdout=40), 100)
    assert found[:20] == list(range(20))
    assert len(found) == 100
    assert [sum(lo <= i < hi for i in found) for lo, hi in ((20, 420), (420, 460))] == [40, 40]
    few = chosen(records(forget=20, retain=10, holdout=400), 100)
    assert len(few) == 100


def test_what_is_embedded_is_shared_between_cells_and_is_no_markup():
    one = records(forget=2, retain=1)
    two = CellRecords(
        one.ids, one.splits, one.before, one.after + 1.23456, one.references, ~one.recalled
    )
    odd, shown = "</script><b>&\u2028", "</script><b>&⟨U+2028⟩"
    texts = {
        "forget0": Record(
            "forget0",
            prompt=odd,
            completion="at 555",
            secrets=(Secret("completion", 3, 6, "phone"),),
        )
    }
    text = embedded({("a", 0, 0): one, ("</script>", 1, 0): two}, texts)
    assert not set("<>&\u2028") & set(text)
    content = json.loads(text)
    assert len(content["sets"]) == 1
    assert content["sets"][0]["texts"] == [[shown, [["at ", None], ["555", "phone"]]], None, None]
    assert content["cells"]['["</script>", 1, 0]']["after"] == [1.235, 2.235, 3.235]
    assert content["cells"]['["a", 0, 0]']["recalled"] == [0, 0, 1]
    assert content["cells"]['["a", 0, 0]']["all"] == 3
    assert "texts" not in json.loads(embedded({("a", 0, 0): one}))["sets"][0]
    assert len(json.loads(embedded({("a", 0, 0): one, ("a", 0, 1): one}))["sets"]) == 2


def test_numbers_that_json_lacks():
    odd = CellRecords(
        ["a", "b"],
        ["forget"] * 2,
        np.array([np.nan, np.inf]),
        np.zeros(2),
        np.zeros(2),
        np.zeros(2, bool),
    )
    assert json.loads(embedded({("m", 0, 0): odd}))["sets"][0]["before"] == [None, "inf"]
