"""From an audit's folder to a verdict, and through the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unlearn.apps.cli import run
from unlearn.data.records import Records
from unlearn.errors import DataError, OptionError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import now
from unlearn_eval import run_audit
from unlearn_eval.results.record_names import keyed_names
from unlearn_eval.verdict.decision import View
from unlearn_eval.verdict.load import load_audit, load_evidence, load_scores
from unlearn_eval.verdict.verify import verify

from .conftest import change, copy

pytestmark = pytest.mark.usefixtures("undrawn")


def test_an_audit_keeps_its_policy_and_says_its_power_first(folder):
    stored = json.loads((folder[0] / "audit.json").read_text())["policy"]
    assert stored["name"] == "own"
    assert stored["content"]["prompt_states"] == ["verbatim", "affirmative"]
    assert len(stored["sha256"]) == 64
    assert stored["chosen"].endswith("+00:00")
    (announced,) = folder[1]
    assert announced.startswith(stored["power"])
    assert announced.endswith("can only be INCONCLUSIVE, unless records come out")
    assert "2 subjects are too few" in stored["power"]


def test_an_audit_is_read_back_bit_by_bit(
    folder, tiny_model, adapter, data_file, holdout_file, lineage_key, monkeypatch
):
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    result = run_audit(
        tiny_model, data_file, "rows:0-3", adapter=adapter, holdout=holdout_file, generate=0
    )
    loaded = load_audit(folder[0])
    assert loaded.policy["name"] == "own"
    for state, splits in result.scores.items():
        for split, matrix in splits.items():
            found = loaded.scores[state][split]
            assert [*found.ids] == keyed_names(matrix.ids, Key.load())
            assert np.array_equal(found.log_prob, matrix.log_prob)
            assert np.array_equal(found.text_bytes, matrix.text_bytes)
            for sampler, values in matrix.sampled.items():
                assert np.array_equal(found.sampled[sampler], values)
    assert loaded.get("after", "forget", "utility.loss", "mean") == result.get(
        "after", "forget", "utility.loss", "mean"
    )


def test_subjects_are_kept_as_numbers_not_names(folder):
    file = load_scores(folder[0])
    assert file.subjects["forget"] == [0, 0, 1, 1]
    assert set(file.subjects["forget"]).isdisjoint(file.subjects["holdout"])
    assert b"person0" not in (folder[0] / "scores.parquet").read_bytes()


def test_scores_are_for_their_owner_alone(folder):
    """They say of single records what the model knows of them."""
    assert (folder[0] / "scores.parquet").stat().st_mode & 0o777 == 0o600


def test_a_verdict_from_files(folder):
    verdict = verify(folder[0])
    assert (verdict.tier, verdict.outcome) == ("C", "INCONCLUSIVE")
    assert verdict.policy["chosen"] == "before"
    assert verdict.gates[0].passed is True
    assert verdict.counts == {"forget": 4, "holdout": 8, "subjects": 2, "references": 0}
    assert len(verdict.audit_sha256) == 64
    other = verify(folder[0], "quick")
    assert (other.policy["name"], other.policy["chosen"]) == ("quick", "after")


def test_a_policy_that_follows_a_first_look_is_chosen_after(
    tiny_model, adapter, data_file, lineage_key, tmp_path, monkeypatch
):
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "home"))

    def chosen(name, forget="r0", policy="quick", **more):
        words = {"adapter": adapter, "generate": 0, "policy": policy, "overwrite": True} | more
        run_audit(tiny_model, data_file, forget, tmp_path / name, **words)
        return verify(tmp_path / name).policy["chosen"]

    # the same policy again, as after a kill, has seen nothing; another one has
    assert chosen("first") == "before"
    assert chosen("again") == "before"
    assert chosen("other", policy="standard") == "after"
    # nor does an audit without one leave later ones blind; of other records it does
    assert chosen("bare", "r4", policy=None) == "after"
    assert chosen("late", "r4") == "after"
    assert chosen("others", "r6") == "before"
    # nor does an audit that keeps no scores: its look is logged all the same
    assert chosen("unkept", "r5", cache=False) == "before"
    assert chosen("unkept", "r5", policy="standard", cache=False) == "after"
    assert chosen("late", "r4", cache=False) == "after"
    # what was seen in another home is not known
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "elsewhere"))
    assert chosen("late", "r4", cache=False) == "before"


def test_an_audit_without_policy_is_judged_by_the_standard_chosen_after(folder, tmp_path):
    audit = copy(folder, tmp_path / "a")
    change(audit, lambda content: content.pop("policy"))
    assert verify(audit).policy["name"] == "standard"
    assert verify(audit).policy["chosen"] == "after"


def test_files_that_are_not_of_one_story(folder, tmp_path):
    audit = copy(folder, tmp_path / "a")
    # the same weights twice are no two references
    change(audit, lambda content: content["states"].update({"reference:0": "x"}))
    gate = verify(audit).gates[0]
    assert gate.passed is False
    assert "same states" in gate.words
    audit = copy(folder, tmp_path / "b")

    def another_loss(content):
        row = next(r for r in content["rows"] if r["probe"] == "utility.loss")
        row["value"] += 1e-3

    change(audit, another_loss)
    verdict = verify(audit)
    assert verdict.outcome == "INCONCLUSIVE"
    assert "losses in audit.json" in verdict.reasons[0]
    audit = copy(folder, tmp_path / "c")
    change(audit, lambda content: content["policy"]["content"].update({"delta": 0.2}))
    with pytest.raises(DataError, match="hash is not that of its content"):
        verify(audit)


def test_references_must_differ_from_each_other_and_the_model(folder, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    audit = copy(folder, tmp_path / "a")
    table = pq.read_table(audit / "scores.parquet")
    rows = [s == "base" for s in table.column("state").to_pylist()]
    column = table.column_names.index("state")
    base = table.filter(pa.array(rows))
    more = [
        base.set_column(column, "state", pa.array([f"reference:{i}"] * base.num_rows))
        for i in range(2)
    ]
    pq.write_table(pa.concat_tables([table, *more]), audit / "scores.parquet")

    def add(second):
        def edit(content):
            content["states"] |= {"reference:0": "one", "reference:1": second}
            kept = [r for r in content["rows"] if not r["state"].startswith("reference:")]
            plain = [r for r in kept if r["state"] == "base"]
            content["rows"] = kept + [
                r | {"state": f"reference:{i}"} for i in range(2) for r in plain
            ]

        return edit

    for digest, good in (("two", True), ("one", False)):
        change(audit, add(digest))
        assert verify(audit).gates[0].passed is good
    change(
        audit, lambda content: content["states"].update({"reference:1": content["states"]["after"]})
    )
    assert "differ from each other" in verify(audit).gates[0].words


def test_views_are_read_where_the_file_has_them(folder, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    audit = copy(folder, tmp_path / "a")
    table = pq.read_table(audit / "scores.parquet")
    plain = zip(*(table.column(c).to_pylist() for c in ("state", "prompt_state")), strict=True)
    rows = [place == ("after", "verbatim") for place in plain]
    again = table.filter(pa.array(rows))

    def told(column: str, value: str) -> pa.Table:
        named = pa.array([value] * again.num_rows)
        return again.set_column(again.column_names.index(column), column, named)

    parts = [
        table,
        told("deployment", "int8"),
        told("prompt_state", "sung").drop_columns(["text_bytes"]),
    ]
    pq.write_table(pa.concat_tables(parts, promote_options="default"), audit / "scores.parquet")
    file = load_scores(audit)
    assert {View(), View("int8"), View("as-is", "sung")} <= set(file.views)
    assert list(file.views[View("int8")]) == ["after"]
    assert file.views[View("as-is", "sung")]["after"]["forget"].text_bytes is None
    assert file.subjects["forget"] == [0, 0, 1, 1]
    assert load_audit(audit).prompted["after"]["sung"].records == 4


def test_twins_come_from_a_file(folder, tmp_path, holdout_file, lineage_key, monkeypatch):
    """It names records by their ids, and so do messages; the scores name them under the key."""
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    path = tmp_path / "twins.json"
    ids = Records.load(holdout_file).ids
    named = {f"r{i}": ids[i] for i in range(4)}
    path.write_text(json.dumps({"randomised": True, "twins": named}))
    paired = verify(folder[0], twins=path)
    # whoever saw the scores can write the file: a coin takes the lineage's commitment to it
    assert paired.tier == "C"
    assert "not checked: a coin decided which of each pair was included" in paired.gates[0].words
    # which records are twins was said once the scores were there, whatever the policy
    assert (verify(folder[0]).policy["chosen"], paired.policy["chosen"]) == ("before", "after")
    path.write_text(json.dumps({"twins": named}))
    assert "coin" not in verify(folder[0], twins=path).gates[0].words
    path.write_text(json.dumps({"twins": {f"r{i}": [ids[i], ids[i + 4]] for i in range(4)}}))
    assert load_evidence(folder[0], path).twins.positions.tolist() == [[i, i + 4] for i in range(4)]
    for broken, message in (
        ([], "not a file of twins"),
        ({"twins": {"r0": ids[0]}}, "no twins of record 'keyed:"),
        ({"twins": named | {"r2": "nobody"}}, "'nobody' of 'r2' is not in the holdout"),
        ({"twins": named | {"r2": [ids[0], ids[1]]}}, "same number of twins"),
        ({"twins": named | {"r2": ids[0]}}, "is a twin of 'r0' and again of 'r2'"),
        ({"twins": {f"r{i}": [ids[i], ids[i]] for i in range(4)}}, "of 'r0' and again of 'r0'"),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=message):
            load_evidence(folder[0], path)


def test_what_is_no_audit(tmp_path, folder):
    with pytest.raises(DataError, match="there is no audit"):
        verify(tmp_path)
    audit = copy(folder, tmp_path / "a")
    (audit / "scores.parquet").unlink()
    with pytest.raises(DataError, match="cannot read scores"):
        verify(audit)
    (audit / "audit.json").write_text("[]")
    with pytest.raises(DataError, match="no audit of schema 1"):
        verify(audit)


def test_an_unknown_policy_stops_an_audit_before_anything_is_read(tmp_path):
    with pytest.raises(OptionError, match="did you mean 'strict'"):
        run_audit(tmp_path / "none", tmp_path / "none", "r0", policy="strikt")


def test_the_command_line(folder, tmp_path, capfd):
    audit = copy(folder, tmp_path / "a")
    assert run(["verify", "--audit", str(audit)]) == 4
    shown = capfd.readouterr().out
    assert "INCONCLUSIVE" in shown
    assert "What would decide" in shown
    assert "chosen before the audit" in " ".join(shown.split())
    content = json.loads((audit / "verdict.json").read_text())
    assert (content["schema"], content["outcome"]) == (1, "INCONCLUSIVE")
    assert now()[:10] == content["created"][:10]
    assert run(["verify", "--audit", str(audit)]) == 2
    assert "--overwrite" in capfd.readouterr().err
    words = ["verify", "--audit", str(audit), "--output", str(tmp_path / "b"), "--json"]
    assert run([*words, "--policy", "quick"]) == 4
    printed = json.loads(capfd.readouterr().out)
    assert printed == json.loads((tmp_path / "b" / "verdict.json").read_text())
    assert printed["policy"]["name"] == "quick"
    assert run(["verify", "--audit", str(tmp_path / "nowhere")]) == 2
    assert "audit.json" in capfd.readouterr().err


@pytest.mark.parametrize(("outcome", "code"), [("PASS", 0), ("FAIL", 3), ("INCONCLUSIVE", 4)])
def test_exit_codes(folder, tmp_path, monkeypatch, outcome, code):
    import dataclasses

    import unlearn_eval.verdict.verify

    found = dataclasses.replace(verify(folder[0]), outcome=outcome)
    monkeypatch.setattr(unlearn_eval.verdict.verify, "decided", lambda _: found)
    assert run(["verify", "--audit", str(copy(folder, tmp_path / "a"))]) == code
