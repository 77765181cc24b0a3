"""What is to be forgotten is taken out wherever its content stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unlearn import Records, finetune, forget
from unlearn.data import splits
from unlearn.data.splits import near_copies, retained, without_copies
from unlearn.errors import LineageError, SelectionError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import RecordDigests

LONG = "Ann Miller was born in Lyon in 1961 and writes about bridges; her number is 555-0143"
ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": LONG},
    {"id": "b", "text": "Bo likes tea, and nobody knows where Bo lives."},
    {"id": "copy", "subject": "x", "text": LONG},
    {"id": "near", "text": LONG.upper() + "!"},
    {"id": "d", "text": "Cy is out until the end of the month, at the very least."},
]
QUICK = {"max_steps": 2, "batch_size": 2}


def test_copies_go_and_near_copies_are_told() -> None:
    records = Records.from_rows(ROWS)
    chosen = records.select("a")
    kept = without_copies(records, chosen)
    assert kept.records.ids == ["b", "near", "d"]
    (note,) = kept.notes
    assert "1 more record(s) have the same content as records to forget, first 'copy'" in note
    (note,) = near_copies(chosen, kept.records)
    assert "1 record(s) that are kept nearly repeat" in note
    assert "'near' 'a' (0.99)" in note
    assert without_copies(records, records.select("d")).notes == []
    assert near_copies(records.select("d"), records.select("b")) == []


def test_copies_among_records_given_to_keep_go_too() -> None:
    records = Records.from_rows(ROWS[:2])
    others = Records.from_rows([{**ROWS[0], "id": "other"}, ROWS[4]], "others.jsonl")
    kept = retained(records, records.select("a"), others, needed=True)
    assert kept.records.ids == ["d"]
    assert kept.notes[0].startswith("others.jsonl: 1 more record(s)")
    twice = Records.from_rows([ROWS[0], ROWS[2]])
    with pytest.raises(SelectionError, match="nothing is left to retain"):
        retained(twice, twice.select("a"), None, needed=True)


def test_many_records_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_MOST_COMPARED", 3)
    records = Records.from_rows(ROWS)
    assert "nobody looked" in near_copies(records.select("a"), records.select("near,d,b"))[0]


def test_a_record_to_train_on_and_to_leave_out_is_refused() -> None:
    digests = RecordDigests(key_id="k", trained=["1", "2"], forgotten=["3"])
    assert digests.left_out(["3"]) is digests
    with pytest.raises(LineageError, match="1 record"):
        digests.left_out(["2", "3"])


def test_retraining_and_finetuning_leave_out_every_copy(tiny_model: Path, tmp_path: Path) -> None:
    records = Records.from_rows(ROWS)
    digest = Key.load().digest(records[0])
    first = finetune(tiny_model, records, tmp_path / "a", options=QUICK)
    assert digest in first.lineage.records.trained
    without = finetune(tiny_model, records, tmp_path / "b", exclude="a", options=QUICK)
    again = forget(
        tiny_model,
        records,
        "a",
        tmp_path / "c",
        adapter=first.folder,
        method="retrain",
    )
    for result in (without, again):
        assert digest not in result.lineage.records.trained
        assert len(result.lineage.records.trained) == 3
        assert any("first 'copy'" in note for note in result.notes)
        assert any("nearly repeat" in note for note in result.notes)


def test_a_given_record_that_goes_for_its_id_alone_is_told() -> None:
    records = Records.from_rows([{"id": "0", "text": "one"}, {"id": "1", "text": "two"}])
    given = Records.from_rows([{"id": "0", "text": "other"}, {"id": "7", "text": "more"}], "given")
    kept = retained(records, records.select("0"), given, needed=True)
    assert kept.records.ids == ["7"]
    (note,) = kept.notes
    assert "given: 1 record(s) have the id of a record to forget, first '0'" in note
