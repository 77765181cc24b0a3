"""All passes through an audit: rows, caching, refusals."""

from __future__ import annotations

import json

import pytest

from unlearn.apps.cli import run
from unlearn.provenance.keys import home
from unlearn_eval import run_audit
from unlearn_eval.passes import PASSES

MEMBERSHIP = [name for name, entry in PASSES.items() if entry.probe.startswith("membership.")]


@pytest.fixture
def audit(tiny_model, adapter, data_file, holdout_file, lineage_key, monkeypatch):
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)

    def run(*also, **options):
        settings = {"adapter": adapter, "holdout": holdout_file, "generate": 0}
        return run_audit(tiny_model, data_file, "r0,r1", also=also, **(settings | options))

    return run


def test_membership_passes_give_an_auc_of_forget_against_holdout(audit):
    steps = []
    found = audit(*MEMBERSHIP, progress=lambda *done: steps.append(done))
    assert steps[-1][0] == steps[-1][1]
    for name in MEMBERSHIP:
        row = found.get("after", "forget", f"membership.{name}", "auc")
        assert 0 <= row.value <= 1
        assert found.get("after", "forget", f"membership.{name}", "tpr@fpr=0.01")
        (member,) = [
            m for m in found.measures["after"]["forget"] if m.probe == f"membership.{name}"
        ]
        (other,) = [
            m for m in found.measures["after"]["holdout"] if m.probe == f"membership.{name}"
        ]
        wins = (member.values[:, None] > other.values).mean()
        ties = (member.values[:, None] == other.values).mean()
        assert row.value == pytest.approx(wins + ties / 2)
        assert row.n == len(member.values)
    again = audit(*MEMBERSHIP)
    assert [r for r in again.rows if "grad_norm" in r.probe and r.state == "base"] == []
    assert [r.value for r in again.rows] == [r.value for r in found.rows]


def test_without_a_holdout_a_pass_says_what_is_missing(audit):
    row = audit("grad_norm", holdout=None).get("after", "forget", "membership.grad_norm", "auc")
    assert row.value is None
    assert "--holdout" in row.note


def test_the_result_holds_what_passes_measured(audit, tmp_path):
    import pyarrow.parquet as pq

    audit("grad_norm", output=tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "scores.parquet").to_pandas()
    column = table.set_index(["state", "split"])["membership.grad_norm.score"]
    assert column["after"]["forget"].notna().all()
    assert column["base"].isna().all()
    assert "grad_norm" in (tmp_path / "out" / "report.html").read_text()


def test_the_command_line(tiny_model, adapter, data_file, holdout_file, tmp_path, capfd):
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"id": "r0", "prompt": "Number?"}) + "\n")
    words = ["audit", "-m", str(tiny_model), "-a", str(adapter), "-d", str(data_file)]
    words += ["--forget", "r0,r1", "--holdout", str(holdout_file), "--generate", "0"]
    words += ["--also", "recall, prompt_states", "--paraphrases", str(asked), "--no-cache"]
    assert run([*words, "--output", str(tmp_path / "out")]) == 0
    shown = capfd.readouterr().out
    rows = json.loads((tmp_path / "out" / "audit.json").read_text())["rows"]
    assert {"verbatim", "affirmative", "paraphrase:1"} <= {r["prompt_state"] for r in rows}
    (auc,) = [
        r["value"]
        for r in rows
        if (r["state"], r["probe"], r["metric"]) == ("after", "membership.recall", "auc")
    ]
    assert 0 <= auc <= 1
    assert not (home() / "cache").exists()

    # the screen shows of what was asked besides a line each, and all else as without it
    note = "the prompt state role_play was measured in part: 1 of 2 records does not fit"
    assert note in " ".join(shown.split())
    more = ("ReCaLL AUC", "word for word (", note)
    kept = [" ".join(x.split()) for x in shown.splitlines() if not any(m in x for m in more)]
    assert run([*words[:-5], "--output", str(tmp_path / "plain")]) == 0
    plain = capfd.readouterr().out.replace("plain", "out").splitlines()
    assert [x for x in kept if set(x) - {"─"}] == [
        y for x in plain if set(y := " ".join(x.split())) - {"─"}
    ]
    assert "ReCaLL AUC" in shown
    assert "forget: recalled word for word (paraphrase:1)" in shown
    assert (home() / "cache").exists()

    words[words.index("--also") + 1] = "recal"
    assert run([*words, "--output", str(tmp_path / "no")]) == 2
    assert "did you mean 'recall'" in capfd.readouterr().err
    words[words.index("--also") + 1] = "recall"
    assert run([*words, "--output", str(tmp_path / "no")]) == 2
    assert "--also prompt_states, which was not asked for" in capfd.readouterr().err
    assert run(["attacks"]) == 0
    listed = capfd.readouterr().out
    assert all(name in listed for name in PASSES)
