"""What an audit keeps of lineages, and what a verdict reads again."""

from __future__ import annotations

import json
import shutil

import pytest

from unlearn.apps.cli import run
from unlearn.data.records import Records
from unlearn.errors import DataError, LineageError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import weights_digest
from unlearn_eval import run_audit
from unlearn_eval.audit.lineages import LineageFacts
from unlearn_eval.verdict.load import load_evidence
from unlearn_eval.verdict.verify import verify

from .conftest import change, copy

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def compared(folder, tmp_path):
    """An audit with two references in it, and their folders: what an audit of them would keep."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    audit = copy(folder, tmp_path / "a")
    table = pq.read_table(audit / "scores.parquet")
    plain = table.filter(pa.array([s == "base" for s in table.column("state").to_pylist()]))
    column = table.column_names.index("state")
    names = ["reference:0", "reference:1"]
    more = [plain.set_column(column, "state", pa.array([n] * plain.num_rows)) for n in names]
    pq.write_table(pa.concat_tables([table, *more]), audit / "scores.parquet")
    content = json.loads((audit / "audit.json").read_text())
    gone, key = content["records"]["forget"], content["records"]["key_id"]
    base = [row for row in content["rows"] if row["state"] == "base"]
    for i, name in enumerate(names):
        place = tmp_path / "references" / f"reference-0{i}"
        place.mkdir(parents=True)
        (place / "adapter_model.safetensors").write_bytes(name.encode())
        digest = weights_digest(place)
        records = {"key_id": key, "trained": ["0" * 64], "forgotten": gone}
        (place / "lineage.json").write_text(json.dumps({"digest": digest, "records": records}))
        content["states"][name] = digest
        content["references"][name] = {"weights": digest, "trained": 1, "saw": 0, "kept": 1}
        content["rows"] += [row | {"state": name} for row in base]
    (audit / "audit.json").write_text(json.dumps(content))
    return audit, tmp_path / "references"


def test_an_audit_names_its_records_by_keyed_digests(folder, lineage_key, data_file):
    content = json.loads((folder[0] / "audit.json").read_text())
    key = Key(bytes.fromhex(lineage_key))
    gone = Records.load(data_file).select("rows:0-3")
    assert content["records"]["forget"] == sorted(key.digest(record) for record in gone)
    assert (content["records"]["key_id"], content["records"]["kept"]) == (key.id, 8)
    assert content["references"] == {}


@pytest.mark.parametrize(
    ("edit", "agrees", "words"),
    [
        ({}, True, "never saw the records, by their lineages"),
        ({"saw": 1}, False, "does not hold: the references never saw the records"),
        ({"saw": None, "trained": None}, None, "1 of 2 have none that says so"),
        ({"weights": "sha256:" + "0" * 64}, False, "lineages are of the references that were"),
    ],
)
def test_references_must_not_have_seen_the_records(compared, edit, agrees, words):
    audit, _ = compared
    change(audit, lambda content: content["references"]["reference:1"].update(edit))
    verdict = verify(audit)
    gate = verdict.gates[0]
    assert gate.passed is (agrees is not False)
    assert words in gate.words
    assert ("not checked: the references never saw" in gate.words) is (agrees is None)
    if agrees is False:
        assert verdict.outcome == "INCONCLUSIVE"
        assert words.removeprefix("does not hold: ") in verdict.reasons[0]


def test_references_that_saw_fewer_kept_records_are_known(compared):
    audit, _ = compared
    change(audit, lambda content: content["records"].update(kept=8))
    change(audit, lambda content: content["references"]["reference:0"].update(kept=8))
    assert load_evidence(audit).partial == {"reference:1"}
    change(audit, lambda content: content["references"]["reference:1"].update(kept=None))
    assert load_evidence(audit).partial == set()  # nothing says so
    change(audit, lambda content: content["references"]["reference:1"].update(kept=0))
    assert load_evidence(audit).partial == {"reference:1"}
    each = {"reference:0": {"kept": 8}, "reference:1": {"kept": 0}, "reference:2": {"kept": None}}
    assert LineageFacts({"kept": 8}, each).partial == 1


def test_an_audit_without_facts_of_lineages_says_so(compared):
    audit, _ = compared
    change(audit, lambda content: content.pop("references"))
    assert "(2 of 2 have none that says so)" in verify(audit).gates[0].words
    change(audit, lambda content: content.update(references={"reference:0": 3}))
    with pytest.raises(DataError, match="no facts of references"):
        verify(audit)


def test_references_at_hand_are_looked_at_again(compared, capfd):
    audit, folder = compared
    gate = verify(audit, references=[folder]).gates[0]
    assert gate.passed is True
    assert "at hand (2 of 2) are ones that were measured; by lineages read again" in gate.words
    # one that was exchanged after the audit, for one that saw the records or any other
    one = folder / "reference-00"
    kept = {path: path.read_bytes() for path in one.iterdir()}
    (one / "adapter_model.safetensors").write_bytes(b"trained on all of them")
    with pytest.raises(LineageError, match="is of other weights"):
        verify(audit, references=[folder])
    (one / "lineage.json").unlink()
    gate = verify(audit, references=[folder]).gates[0]
    assert gate.passed is False
    assert (
        gate.words == "does not hold: the references at hand (2 of 2) are ones that were measured"
    )
    assert verify(audit, references=[folder / "reference-01"]).gates[0].passed is True
    # one whose lineage names a record after all: the audit's facts were edited
    for path, content in kept.items():
        path.write_bytes(content)
    line = json.loads((one / "lineage.json").read_text())
    line["records"]["trained"] += line["records"]["forgotten"][:1]
    (one / "lineage.json").write_text(json.dumps(line))
    gate = verify(audit, references=[folder]).gates[0]
    assert gate.passed is False
    assert gate.words.endswith(
        "by lineages read again, the references at hand never saw the records"
    )
    words = ["verify", "--audit", str(audit), "--reference", str(folder)]
    assert run(words) == 4
    assert "does not hold: by lineages read again" in " ".join(capfd.readouterr().out.split())


def test_a_reference_under_the_lineage_of_another_is_refused(
    tiny_model, adapter, data_file, lineage_key, tmp_path, monkeypatch
):
    """Weights that saw the records, beside a lineage that says they did not."""
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    fake = tmp_path / "reference"
    shutil.copytree(adapter, fake)
    line = json.loads((fake / "lineage.json").read_text())
    line["records"]["trained"] = line["records"]["trained"][:1]
    line["digest"] = "sha256:" + "1" * 64
    (fake / "lineage.json").write_text(json.dumps(line))
    keep = {"adapter": adapter, "references": [fake], "generate": 0}
    with pytest.raises(LineageError, match=r"reference/lineage\.json is of other weights"):
        run_audit(tiny_model, data_file, "r0", tmp_path / "out", **keep)
    assert not (tmp_path / "out").exists()


def test_a_holdout_that_the_model_saw_is_refused(
    tiny_model, adapter, data_file, lineage_key, tmp_path, monkeypatch
):
    """Its data file no longer holds these records, and its lineage still does."""
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    rows = data_file.read_text().splitlines(keepends=True)
    now, seen = tmp_path / "now.jsonl", tmp_path / "seen.jsonl"
    now.write_text("".join(rows[:6]))
    seen.write_text("".join(rows[6:]))
    with pytest.raises(LineageError, match="the audited model was trained on 6 of its records"):
        run_audit(tiny_model, now, "r0", adapter=adapter, holdout=seen, generate=0)
