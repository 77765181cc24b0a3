from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from unlearn.data.records import Records
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import encode
from unlearn.errors import DataError, OptionError
from unlearn.model.state import open_model
from unlearn_eval import run_audit
from unlearn_eval.passes.inputs import OtherAnswers, read_perturbed
from unlearn_eval.scores.model_scores import score_model

FALSE = {"r0": ["It is 1.", "It is 22 indeed."], "r6": ["It is 7."]}


def losses(tiny_model, adapter, rows):
    """Mean loss of each answer, scored by itself."""
    state = open_model(tiny_model, [adapter])
    records = Records.from_rows(rows)
    template = choose_template("qa", AutoTokenizer.from_pretrained(tiny_model), records)
    found = score_model(
        state.model, state.head, encode(records, state.tokenizer, template, state.max_length)
    )
    return -found.per_record(found.log_prob)


def test_rows_by_hand(tiny_model, adapter, data_file, holdout_file):
    audit = run_audit(
        tiny_model,
        data_file,
        "rows:0-3",
        adapter=adapter,
        holdout=holdout_file,
        template="qa",
        generate=0,
        perturbed=FALSE,
    )
    rows = {r["id"]: r for r in map(json.loads, data_file.read_text().splitlines())}
    values = {}
    for name, false in FALSE.items():
        answers = [rows[name]["completion"], *false]
        parts = [
            {"id": str(i), "prompt": rows[name]["prompt"], "completion": text}
            for i, text in enumerate(answers)
        ]
        found = losses(tiny_model, adapter, parts)
        values[name] = float(np.exp(found[0] - found[1:].mean()))
    forget = audit.get("after", "forget", "utility.truth_ratio", "indifference")
    assert forget.value == pytest.approx(min(values["r0"], 1 / values["r0"]), rel=1e-4)
    assert (forget.n, forget.params["false_answers"]) == (1, 2)
    kept = audit.get("after", "retain", "utility.truth_ratio", "preference")
    assert kept.value == pytest.approx(max(0.0, 1 - values["r6"]), abs=1e-4)
    assert audit.get("base", "retain", "utility.truth_ratio", "preference")


def test_tables_of_tofu_fit_as_they_are(tmp_path):
    records = Records.from_rows(
        [{"id": "a", "question": "Q1?", "answer": "A1"}, {"id": "b", "text": "free"}]
    )
    file = tmp_path / "perturbed.jsonl"
    row = {"question": "Q1?", "answer": "A1", "paraphrased_answer": "One"}
    row["perturbed_answer"] = ["A2", "A3"]
    other = row | {"question": "Q9?"}
    file.write_text(json.dumps(row) + "\n" + json.dumps(other) + "\n")
    found = read_perturbed(file, {"forget": records})
    assert found == {"forget": {0: OtherAnswers(("A2", "A3"), "One")}}
    assert read_perturbed({"a": ["A2"]}, {"forget": records}) == {
        "forget": {0: OtherAnswers(("A2",))}
    }
    assert read_perturbed(None, {"forget": records}) == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a"}, "'perturbed_answer' must be a list"),
        ({"id": "a", "perturbed_answer": []}, "'perturbed_answer' must be a list"),
        ({"id": "a", "perturbed_answer": [""]}, "not empty"),
        ({"id": "a", "perturbed_answer": ["x"], "paraphrased_answer": 3}, "'paraphrased_answer'"),
        ({"id": "z", "perturbed_answer": ["x"]}, "no row belongs to a record"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, row, message):
    records = Records.from_rows([{"id": "a", "question": "Q1?", "answer": "A1"}])
    file = tmp_path / "perturbed.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        read_perturbed(file, {"forget": records})


def test_the_pass_without_answers_and_free_text_are_refused(tiny_model, data_file, tmp_path):
    with pytest.raises(OptionError, match="pass --perturbed FILE"):
        run_audit(tiny_model, data_file, "r0", also=["truth_ratio"])
    free = tmp_path / "free.jsonl"
    free.write_text(json.dumps({"id": "a", "text": "free text"}) + "\n")
    with pytest.raises(DataError, match="free text"):
        run_audit(tiny_model, free, "a", perturbed={"a": ["x"]}, generate=0)
    long = {"r0": ["very long " * 200]}
    with pytest.raises(DataError, match="does not fit within the 128 tokens"):
        run_audit(tiny_model, data_file, "r0", perturbed=long, generate=0)
