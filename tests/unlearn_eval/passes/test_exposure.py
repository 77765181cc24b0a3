from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.errors import DataError
from unlearn_eval import run_audit
from unlearn_eval.passes import plan
from unlearn_eval.scores.cache import Cache


def row(name: str, prompt: str, completion: str, *values: str, field: str = "completion"):
    text = completion if field == "completion" else prompt
    spans = [(text.index(v), text.index(v) + len(v)) for v in values]
    secrets = [{"field": field, "start": a, "end": b, "kind": "pin"} for a, b in spans]
    return {"id": name, "prompt": prompt, "completion": completion, "secrets": secrets}


ROWS = [
    row("a", "Pin of Ann?", "It is 48.", "48"),
    row("b", "Both?", "It is 7 or 53.", "7", "53"),
    row("c", "None?", "It is secret.", "secret"),
    row("d", "Is it 91?", "Yes.", "91", field="prompt"),
]


def exposed(model, tokenizer, before: str, value: str, form: int) -> float:
    """Exposure of one value, from the model's own logits for all values of the format."""

    def log_p(other: str) -> float:
        whole = tokenizer(before + other, return_offsets_mapping=True)
        ids = torch.tensor([whole.input_ids])
        with torch.no_grad():
            table = model(input_ids=ids).logits[0].log_softmax(-1)
        inside = [i for i, (_, end) in enumerate(whole.offset_mapping) if end > len(before)]
        return sum(float(table[i - 1, ids[0, i]]) for i in inside)

    true = log_p(value)
    others = [log_p(f"{i:0{form}d}") for i in range(10**form) if f"{i:0{form}d}" != value]
    return math.log2(10**form) - math.log2(1 + sum(other > true for other in others))


def test_exposure_is_the_rank_by_the_models_own_logits(opened, make_material):
    material = make_material(gone=Records.from_rows(ROWS))
    (planned,) = plan(["exposure"], material)
    assert planned.records == 99 + 9 + 99
    (measure,) = planned.run(opened.view, {}, Cache()).measures["forget"]
    assert (measure.probe, measure.metric) == ("extraction.exposure", "mean")
    assert measure.positions.tolist() == [0, 1]
    model, tokenizer = opened.view.model, material.tokenizer
    asked = "Question: Both?\nAnswer: It is "
    expected = [
        exposed(model, tokenizer, "Question: Pin of Ann?\nAnswer: It is ", "48", 2),
        max(
            exposed(model, tokenizer, asked, "7", 1),
            exposed(model, tokenizer, f"{asked}7 or ", "53", 2),
        ),
    ]
    np.testing.assert_allclose(measure.values, expected, rtol=1e-6)


def test_secrets_in_conversations_and_texts(opened, make_material):
    turns = [{"role": "user", "content": "Pin?"}, {"role": "assistant", "content": "It is 48."}]
    secret = [{"field": "messages.1.content", "start": 6, "end": 8, "kind": "pin"}]
    talk = Records.from_rows([{"id": "t", "messages": turns, "secrets": secret}])
    (planned,) = plan(["exposure"], make_material(gone=talk, template=Template("roles")))
    (measure,) = planned.run(opened.view, {}, Cache()).measures["forget"]
    told = exposed(
        opened.view.model, opened.state.tokenizer, "User: Pin?\nAssistant: It is ", "48", 2
    )
    np.testing.assert_allclose(measure.values, [told])
    secret = [{"field": "text", "start": 6, "end": 8, "kind": "pin"}]
    text = Records.from_rows([{"id": "t", "text": "It is 48.", "secrets": secret}])
    (planned,) = plan(["exposure"], make_material(gone=text))
    (measure,) = planned.run(opened.view, {}, Cache()).measures["forget"]
    told = exposed(opened.view.model, opened.state.tokenizer, "It is ", "48", 2)
    np.testing.assert_allclose(measure.values, [told])


def test_a_secret_learnt_by_heart_is_the_likeliest_of_all(opened, make_material, monkeypatch):
    """The orientation: the true value's rank 1 is the most bits."""
    from unlearn_eval.passes import exposure as module

    def known(view, rows):
        return -np.arange(len(rows), dtype=float)  # the true value comes first

    material = make_material(gone=Records.from_rows([row("a", "Pin?", "It is 482.", "482")]))
    (planned,) = plan(["exposure"], material)
    monkeypatch.setattr(module, "summed_log_probs", known)
    (measure,) = planned.run(opened.view, {}, Cache()).measures["forget"]
    assert measure.values == pytest.approx([math.log2(1000)])
    monkeypatch.setattr(module, "summed_log_probs", lambda view, rows: -known(view, rows) - 1e9)
    (measure,) = planned.run(opened.view, {}, Cache()).measures["forget"]
    assert measure.values == pytest.approx([0.0])


def test_an_audit_reports_bits_and_runs_once(tiny_model, adapter, holdout_file, tmp_path):
    settings = {"adapter": adapter, "holdout": holdout_file, "generate": 0, "also": ["exposure"]}
    data = Records.from_rows(ROWS)
    found = run_audit(tiny_model, data, "a,b,c", **settings)
    for state in ("after", "base"):
        assert found.get(state, "forget", "extraction.exposure", "mean").n == 2
    again = run_audit(tiny_model, data, "a,b,c", **settings)
    assert [r.value for r in again.rows] == [r.value for r in found.rows]


def test_refuses_records_without_such_secrets(make_material):
    for rows in (ROWS[2:3], ROWS[3:]):
        with pytest.raises(DataError, match="no record to forget declares a secret with digits"):
            plan(["exposure"], make_material(gone=Records.from_rows(rows)))
