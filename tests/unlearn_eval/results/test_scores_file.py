"""Every number of an audit's table can be computed again from scores.parquet alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from unlearn.errors import DataError
from unlearn.provenance.keys import Key
from unlearn_eval import audit_rows, run_audit
from unlearn_eval.extraction import PROBES
from unlearn_eval.results.record_names import ids_of, keyed_name, keyed_names, keyed_text, names_in
from unlearn_eval.results.scores_file import MatrixPlace, read_scores, scores_table
from unlearn_eval.statistics import auc_interval, mean_interval, proportion_interval
from unlearn_eval.utility import loss

KEY = "fedcba9876543210" * 4  # under which no lineage says what the reference saw

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def key(monkeypatch):
    """The user's own."""
    monkeypatch.setenv("UNLEARN_KEY", KEY)
    return Key.load()


@pytest.fixture(scope="module")
def written(tiny_model, adapter, data_file, holdout_file, tmp_path_factory):
    """An audit with everything: its folder and its result."""
    folder = tmp_path_factory.mktemp("audit")
    false = folder / "false.jsonl"
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    false.write_text(
        "".join(
            json.dumps({"id": r["id"], "perturbed_answer": ["It is 1.", "It is 22."]}) + "\n"
            for r in rows[:6]
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_HOME", str(folder / "home"))
        patch.setenv("UNLEARN_KEY", KEY)
        result = run_audit(
            tiny_model,
            data_file,
            "rows:0-3",
            folder / "out",
            adapter=adapter,
            references=[adapter],
            holdout=holdout_file,
            neighbour="rows:4-5",
            perturbed=false,
            generate=0,
            also=["prompt_states"],
            robustness=["relearn", "scale"],
            robustness_options={
                "relearn": {"k": 1, "steps": 2, "seeds": [3, 4]},
                "scale": {"factors": [0.5]},
            },
        )
    return folder / "out", result


def test_the_matrices_come_back_bit_for_bit(written, key):
    folder, result = written
    found = read_scores(folder / "scores.parquet")
    assert {place.state for place in found} == set(result.states)
    for state, splits in result.scores.items():
        for split, matrix in splits.items():
            back = found[MatrixPlace(state, split)].scores
            assert [*back.ids] == keyed_names(matrix.ids, key)
            np.testing.assert_array_equal(back.log_prob, matrix.log_prob)
            np.testing.assert_array_equal(back.top, matrix.top)
    named = {(p.prompt_state, p.deployment) for p in found}
    assert {
        ("verbatim", "as-is"),
        ("few_shot", "as-is"),
        ("verbatim", "scale=0.5"),
        ("verbatim", "relearned seed=3 k=1 steps=2"),
    } <= named
    with pytest.raises(DataError, match="cannot read"):
        read_scores(folder / "audit.json")


def test_rows_are_computed_again_from_the_file_alone(written):
    """Prompt states, treatments and clusters included, with their intervals."""
    folder, result = written
    file = folder / "scores.parquet"
    found = read_scores(file)
    again = 0
    for row in result.rows:
        place = MatrixPlace(row.state, row.split, row.prompt_state, row.deployment)
        if place not in found:  # R, the excess and means over seeds, which are of several states
            assert "seeds=2" in row.deployment or row.metric.startswith(("R[", "excess["))
            continue
        matrix, labels = found[place]
        if row.probe == "utility.loss":
            wanted = mean_interval(loss.score(matrix), row.level, labels)
        elif row.probe in {"extraction.verbatim", "extraction.exact", "extraction.strength"}:
            probe = PROBES[row.probe.removeprefix("extraction.")]
            kind = proportion_interval if row.metric.startswith("rate") else mean_interval
            wanted = kind(probe.score(matrix, **probe.metrics[row.metric]), row.level, labels)
        elif (row.probe, row.metric) == ("membership.loss", "auc"):
            other = place._replace(split="holdout")
            x, y = (-loss.score(found[p].scores) for p in (place, other))
            wanted = auc_interval(x, y, row.level, labels, found[other].clusters)
        else:
            continue
        assert (row.value, row.n) == (pytest.approx(wanted.value), wanted.n)
        assert row.interval == wanted.method
        if row.low is not None:
            assert (row.low, row.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
        again += 1
    assert again > 40
    assert {r.deployment for r in result.rows} >= {"scale=0.5", "relearned seed=4 k=1 steps=2"}


def test_the_whole_table_of_plain_states_is_computed_again(written):
    folder, result = written
    plain: dict[str, dict[str, object]] = {}
    for place, (matrix, _) in read_scores(folder / "scores.parquet").items():
        if place == MatrixPlace(place.state, place.split):
            plain.setdefault(place.state, {})[place.split] = matrix
    again = {(r.state, r.split, r.probe, r.metric): r for r in audit_rows(plain, result.subjects)}
    measured = {"utility.truth_ratio", "utility.drift"}
    wanted = {
        (r.state, r.split, r.probe, r.metric): r
        for r in result.rows
        if (r.prompt_state, r.deployment) == ("verbatim", "as-is") and r.probe not in measured
    }
    assert again == wanted


def test_no_subject_and_no_text_is_in_the_file(written, data_file):
    folder, _ = written
    table = pq.read_table(folder / "scores.parquet")
    text = str(table.drop_columns(["log_prob"]).to_pylist())
    assert "person" not in text
    assert "number of" not in text


def test_an_id_is_in_the_file_only_where_it_is_asked_for(written, key):
    """A file of either kind is found again by the ids at hand."""
    folder, result = written
    ids = result.scores["after"]["forget"].ids
    for table, names in (
        (scores_table(result, key), keyed_names(ids, key)),
        (scores_table(result), [*ids]),
    ):
        rows = table.filter(pc.equal(table["split"], "forget")).to_pylist()
        assert {row["id"] for row in rows} == set(names)
        assert names_in(names, ids, key) == dict(zip(ids, names, strict=True))
        assert ids_of([*names, "another"], ids) == [*ids, "another"]
    written_ids = pq.read_table(folder / "scores.parquet", columns=["id"])["id"].to_pylist()
    assert all(name.startswith(f"keyed:{key.id}:") for name in written_ids)
    with pytest.raises(DataError, match="set UNLEARN_KEY to that key"):
        names_in(keyed_names(ids, Key(b"k" * 32)), ids, key)


def test_an_id_that_looks_like_a_name_under_a_key_is_an_id(key):
    odd = f"keyed:{'0' * 12}:{'0' * 32}"
    assert names_in([odd, "r1"], ["r1", odd], key) == {"r1": "r1", odd: odd}
    assert names_in([odd], [odd], key) == {odd: odd}
    name = keyed_name(odd, key)
    assert names_in([name], [odd], key) == {odd: name}


def test_the_names_of_invented_records_stay(written, key):
    """Canaries are nobody, and audit.json names their pairs."""
    _, result = written
    planted = replace(result, canaries={"pairs": {}})
    rows = scores_table(planted, key).to_pylist()
    keyed = {row["split"]: row["id"].startswith("keyed:") for row in rows}
    assert keyed == {"forget": False, "holdout": False, "retain": True, "neighbour": True}


def test_a_note_in_the_files_quotes_no_id(key):
    note = "data: 2 records like \"it's ann\" and 'it', first 'it'"
    told = keyed_text(note, ["it", "it's ann", "bob"], key)
    one, two = (keyed_name(name, key) for name in ("it's ann", "it"))
    assert told == f"data: 2 records like {one!r} and {two!r}, first {two!r}"


def test_means_over_seeds(written):
    _, result = written
    runs = [f"relearned seed={s} k=1 steps=2" for s in (3, 4)]
    for state in ("after", "reference:0"):
        where = (state, "forget", "utility.loss", "mean")
        values = [result.get(*where, deployment=name).value for name in runs]
        row = result.get(*where, deployment="relearned seeds=2 k=1 steps=2")
        wanted = mean_interval(values)
        assert (row.value, row.low, row.high) == pytest.approx(wanted[:3])
        assert (row.interval, row.n, row.params["seed"]) == ("seeds", 3, [3, 4])
        assert "says nothing of other records" in row.note
    told = [r for r in result.rows if r.metric.startswith("R[") and "relearned" in r.deployment]
    assert {r.deployment for r in told} == {"relearned seeds=2 k=1 steps=2"}
    assert {r.params["seeds"] for r in told} == {2}
    # the reference is the state itself
    assert {r.value for r in told} == {1.0}
    (refused,) = [r for r in told if r.metric == "R[utility.loss]"]
    assert refused.low is None
    assert "needs 5 records, and there are 3" in refused.note


def test_neighbours_have_a_split_of_their_own(written):
    _, result = written
    assert result.scores["after"]["neighbour"].ids == ("r4", "r5")
    assert set(result.scores["after"]["retain"].ids).isdisjoint({"r4", "r5"})
    assert result.get("after", "neighbour", "extraction.verbatim", "rate").n == 2
    for split in ("retain", "neighbour", "holdout"):
        assert result.get("after", split, "utility.calibration", "ece").value >= 0
        assert result.get("after", split, "utility.calibration", "brier").value >= 0
    with pytest.raises(KeyError):
        result.get("after", "forget", "utility.calibration", "ece")


def test_neighbours_that_cannot_be(tiny_model, data_file, adapter):
    given = (tiny_model, data_file, "rows:0-3")
    with pytest.raises(DataError, match="among those to forget, first 'r3'"):
        run_audit(*given, adapter=adapter, neighbour="r3,r4")
    with pytest.raises(DataError, match="--neighbour: no such file, and as records"):
        run_audit(*given, adapter=adapter, neighbour="r99")


def test_other_formats_are_refused(tmp_path: Path, make_scores):
    make_scores([[-1.0]]).save(tmp_path / "one.parquet")
    with pytest.raises(DataError, match="no column state"):
        read_scores(tmp_path / "one.parquet")


@pytest.mark.parametrize(
    ("name", "column", "said"),
    [
        ("state", pa.array([None], pa.string()), "column state holds empty values"),
        ("deployment", pa.array([None], pa.string()), "column deployment holds empty values"),
        ("split", pa.array([1]), "column split holds int64, not string"),
        ("cluster", pa.array(["Ann"]), "column cluster holds string, not int64"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path: Path, make_scores, name, column, said):
    table, place = make_scores([[-1.0]]).to_table(), MatrixPlace("after", "forget")
    named = {key: pa.array([value]) for key, value in place._asdict().items()}
    named["cluster"] = pa.array([None], pa.int64())
    file = tmp_path / "scores.parquet"
    for columns in (named, named | {name: column}):
        whole = table
        for key, values in columns.items():
            whole = whole.append_column(key, values)
        pq.write_table(whole, file)
        if columns is named:
            assert list(read_scores(file)) == [place]
    with pytest.raises(DataError, match=said):
        read_scores(file)
