"""From treated states to the rows of an audit."""

from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import OptionError
from unlearn.runs import finetuning
from unlearn_eval import run_audit
from unlearn_eval.report import audit_page
from unlearn_eval.robustness import chosen, resemblance
from unlearn_eval.robustness.rows import robustness_rows
from unlearn_eval.robustness.run import TreatmentRuns
from unlearn_eval.robustness.treatments.treated import Setting, TreatedState, score


@pytest.fixture(scope="module")
def other(tiny_model, data_file, lineage_key, tmp_path_factory):
    """An adapter trained otherwise, to serve as a reference."""
    folder = tmp_path_factory.mktemp("adapters") / "other"
    options = {"learning_rate": 3e-3, "max_steps": 3, "batch_size": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        finetuning.finetune(tiny_model, data_file, folder, lora={"r": 4}, options=options, seed=1)
    return folder


def matrices(make_scores, forget, holdout):
    """Scores of a state from one log-probability a record."""
    ids = {"forget": ("a", "b", "c"), "holdout": ("x", "y")}
    return {
        split: make_scores([[value] for value in values], ids=ids[split])
        for split, values in (("forget", forget), ("holdout", holdout))
    }


def test_rows_by_hand(make_scores):
    (treatment,) = chosen(["relearn"])
    unseen = [-3.0, -4.0]
    scores = {
        "after": matrices(make_scores, [-2.0, -3.0, -4.0], unseen),
        "reference:0": matrices(make_scores, [-2.0, -3.5, -4.5], unseen),
        "reference:1": matrices(make_scores, [-2.0, -3.5, -4.5], unseen),
    }
    # a was trained on; the others' loss falls by 1.5 after unlearning, by 0.5 and 1.0 without
    losses = {"after": [-1.5, -2.5], "reference:0": [-3.0, -4.0], "reference:1": [-2.5, -3.5]}
    runs = TreatmentRuns([treatment], Setting())
    for key, values in losses.items():
        parts = {
            "forget": make_scores([[v] for v in values], ids=("b", "c")),
            "holdout": scores[key]["holdout"],
        }
        runs.treated[key] = [(treatment, TreatedState("relearned k=1 steps=2", parts, {"k": 1}))]
    rows = robustness_rows(runs, scores, {"forget": ["p", "q", None]})
    found = {(r.state, r.split, r.probe, r.metric): r for r in rows}
    assert {r.deployment for r in rows} == {"relearned k=1 steps=2"}
    row = found["after", "forget", "utility.loss", "mean"]
    assert (row.value, row.n, row.params) == (2.0, 2, {"k": 1})
    assert found["after", "forget", "membership.loss", "auc"].value == 1.0
    # (b, c) = (−3, −4) beat (−3, −4) in 1 + 2·½ = 2 of 4 pairs before: the AUC rose by ½
    r = found["after", "forget", "robustness.relearn", "R[utility.loss]"]
    assert r.params["delta"] == pytest.approx(-1.5)
    assert r.params["delta_reference"] == pytest.approx(-0.75)
    assert r.params["references"] == 2
    assert r.value == pytest.approx(1 - 0.75 / 2.25)
    auc = found["after", "forget", "robustness.relearn", "R[membership.loss]"]
    assert auc.params["delta"] == pytest.approx(0.5)
    assert found["after", "forget", "robustness.relearn", "R[extraction.exact]"].value == 1.0


def test_without_references_there_is_no_r(make_scores):
    (treatment,) = chosen(["int8"])
    scores = {"after": matrices(make_scores, [-2.0, -3.0, -4.0], [-3.0, -4.0])}
    runs = TreatmentRuns([treatment], Setting())
    runs.treated["after"] = [(treatment, TreatedState("int8", scores["after"]))]
    rows = [r for r in robustness_rows(runs, scores, {}) if r.metric.startswith("R[")]
    assert len(rows) == 5
    assert all(r.value is None and "--reference" in r.note for r in rows)


def test_an_infinite_loss_gives_no_r(make_scores):
    (treatment,) = chosen(["int4"])
    plain = matrices(make_scores, [-2.0, -3.0, -4.0], [-3.0, -4.0])
    broken = matrices(make_scores, [-2.0, -np.inf, -4.0], [-3.0, -4.0])
    scores = {"after": plain, "reference:0": plain}
    runs = TreatmentRuns([treatment], Setting())
    runs.treated["after"] = [(treatment, TreatedState("int4 group=32", broken))]
    runs.treated["reference:0"] = [(treatment, TreatedState("int4 group=32", plain))]
    rows = {r.metric: r for r in robustness_rows(runs, scores, {})}
    assert rows["R[utility.loss]"].value is None
    assert rows["R[utility.loss]"].params["delta"] is None
    assert rows["R[membership.loss]"].value is not None


def test_a_reference_that_is_the_state_itself_responds_alike(open_state, examples):
    treatments = chosen(["benign", "int8", "merge_bf16", "logit_lens"])
    runs = TreatmentRuns(treatments, Setting(1e-2))
    state, counted = open_state(), []
    for key in ("after", "reference:0"):
        runs.at(key, state, examples, counted.append)
    assert sum(counted) == 2 * runs.work(examples)
    assert not runs.refused
    scores = dict.fromkeys(("after", "reference:0"), score(state, examples))
    rows = robustness_rows(runs, scores, {})
    found = [r for r in rows if r.metric.startswith("R[")]
    assert {r.probe for r in found} == {t.probe for t in treatments}
    assert {r.value for r in found} == {1.0}
    for name in {r.deployment for r in found}:
        moved = [r for r in found if r.deployment == name and r.metric == "R[utility.loss]"]
        assert moved[0].params["delta"], name
    assert {r.state for r in rows} == {"after", "reference:0"}


@pytest.mark.slow
def test_treating_leaves_the_rest_of_an_audit_as_it_is(
    tiny_model, adapter, data_file, holdout_file, other
):
    given = (tiny_model, data_file, "rows:0-3")
    seen: list[tuple[int, int]] = []
    how = {"adapter": adapter, "references": [other], "holdout": holdout_file, "generate": 0}
    plain = run_audit(*given, **how)
    treated = run_audit(
        *given,
        **how,
        robustness=["relearn", "int4", "logit_lens"],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert {total for _, total in seen} == {seen[-1][0]}  # the bar ends where it said it would
    assert [r for r in treated.rows if r.deployment == "as-is"] == list(plain.rows)
    row = treated.get("after", "forget", "utility.loss", "mean")
    assert row == plain.get("after", "forget", "utility.loss", "mean")
    name = "int4 group=32"
    deltas = [
        treated.get(state, "forget", "utility.loss", "mean", deployment=name).value
        - treated.get(state, "forget", "utility.loss", "mean").value
        for state in ("after", "reference:0")
    ]
    r = treated.get("after", "forget", "robustness.quantize", "R[utility.loss]", deployment=name)
    assert r.value == pytest.approx(resemblance(*deltas))
    assert 0 <= r.value < 1
    # the learning rate is that of the adapter's training
    (learned,) = [
        r
        for r in treated.rows
        if r.metric == "auc" and r.state == "after" and r.deployment.startswith("relearned")
    ]
    assert learned.params["learning_rate"] == 1e-2
    page = audit_page(treated)
    assert "What further changes bring out" in page
    now = treated.get("after", "forget", "extraction.exact", "mean", deployment=name).value
    line = page.partition("<code>int4 group=32</code>, 4 records")[2].partition("</tr>")[0]
    moved = now - treated.get("after", "forget", "extraction.exact", "mean").value
    assert f">{now:.2f} ({moved:+.2f})</td>" in line
    assert line.count("<td") == 6
    assert "or other changes to the model than those listed" in page
    assert "What further changes bring out" not in audit_page(plain)


def test_a_treatment_that_is_not_possible_says_why(tiny_model, data_file, holdout_file):
    audit = run_audit(
        tiny_model,
        data_file,
        "r0",
        holdout=holdout_file,
        generate=0,
        robustness=["scale", "relearn"],
    )
    row = audit.get("after", "forget", "robustness.scale", "scale", deployment="scale")
    assert row.value is None
    assert "needs an adapter" in row.note
    assert (
        "two records"
        in audit.get("after", "forget", "robustness.relearn", "relearn", deployment="relearn").note
    )
    assert "needs an adapter" in audit_page(audit)


def test_an_unknown_treatment_is_refused_before_anything_runs(tiny_model, data_file):
    with pytest.raises(OptionError, match="no treatment 'relaern'.*'relearn'"):
        run_audit(tiny_model / "nowhere", data_file, "r0", robustness=["relaern"])
