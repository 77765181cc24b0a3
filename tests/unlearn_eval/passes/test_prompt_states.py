from __future__ import annotations

import copy
import dataclasses
import html
import json

import numpy as np
import pytest
import torch

from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.errors import DataError
from unlearn_eval import run_audit
from unlearn_eval.extraction import discoverable
from unlearn_eval.extraction.prompt_states import AFFIRMATIVE, ROLE_PLAY
from unlearn_eval.passes import plan
from unlearn_eval.passes.inputs import read_paraphrases
from unlearn_eval.passes.prompt_states import prompts
from unlearn_eval.scores.cache import Cache
from unlearn_eval.verdict.verify import verify

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ROWS = [
    {
        "id": "a",
        "prompt": "Pin of Ann?",
        "completion": "It is 4821.",
        "secrets": [{"field": "completion", "start": 6, "end": 10, "kind": "pin"}],
    }
]
MESSAGES = [{"role": "user", "content": "Pin?"}, {"role": "assistant", "content": "It is 1."}]


def text(material, example) -> str:
    return material.tokenizer.decode(example.ids)


def test_each_state_asks_for_the_same_targets_in_another_way(make_material):
    material = make_material(
        gone=Records.from_rows(ROWS), paraphrases={"a": ["Which pin?", "Tell"]}
    )
    plain = material.examples["forget"][0]
    states = {name: part[0] for name, part in prompts(material).states.items()}
    assert list(states) == [
        "few_shot",
        "role_play",
        "affirmative",
        "paraphrase:1",
        "paraphrase:2",
    ]
    for example in states.values():
        np.testing.assert_array_equal(example.ids[example.target], plain.ids[plain.target])
        assert example.ids[0] == 0
        assert (example.ids == 0).sum() == 1
        (span,) = example.secrets
        assert material.tokenizer.decode(example.ids[span.start : span.end]).strip() == "4821"
    asked = "Question: Pin of Ann?\nAnswer:"
    assert text(material, states["affirmative"]).startswith(f"<s>{asked}{AFFIRMATIVE} It is 4821")
    assert f"Question: {ROLE_PLAY}\n\nPin of Ann?\nAnswer: It" in text(
        material, states["role_play"]
    )
    assert "Question: Which pin?\nAnswer: It" in text(material, states["paraphrase:1"])
    shown = text(material, states["few_shot"])
    assert shown.endswith(f"\n\n{asked} It is 4821.</s>")
    assert shown.count("</s>") == 1
    assert shown.count("Question:") > 1


@pytest.mark.parametrize("on", [True, False])
def test_the_chat_template_is_put_on_or_taken_off(make_material, opened, monkeypatch, on):
    tokenizer = copy.deepcopy(opened.state.tokenizer)
    tokenizer.chat_template = CHAT
    monkeypatch.setattr(opened.state, "tokenizer", tokenizer)
    template = Template("qa") if on else Template("chat", tokenizer)
    material = make_material(template=template, gone=Records.from_rows(ROWS), max_length=512)
    states = prompts(material).states
    (example,) = states["chat_on" if on else "chat_off"]
    assert ("chat_off" if on else "chat_on") not in states
    written = "[user]Pin of Ann?</s>[assistant]It is 4821.</s>"
    asked = "<s>Question: Pin of Ann?\nAnswer: It is 4821.</s>"
    assert text(material, example) == (written if on else asked)
    assert "4821" in material.tokenizer.decode(example.ids[example.target])


def test_conversations_and_texts(make_material):
    talk = Records.from_rows([{"id": "t", "messages": MESSAGES}])
    material = make_material(gone=talk, template=Template("roles"))
    states = prompts(material).states
    assert f"User: {ROLE_PLAY}\n\nPin?" in text(material, states["role_play"][0])
    assert f"Assistant:{AFFIRMATIVE} It is" in text(material, states["affirmative"][0])
    material = make_material(gone=Records.from_rows([{"id": "t", "text": "It is 4821."}]))
    assert set(prompts(material).states) == {"few_shot", "affirmative"}


def test_records_that_do_not_fit_are_left_out_of_a_state(make_material):
    gone = Records.from_rows([*ROWS, {**ROWS[0], "id": "b", "prompt": "Which?"}])
    material = make_material(gone=gone, max_length=200)
    long = dataclasses.replace(material.examples["forget"][1], id="long")
    long = dataclasses.replace(long, ids=np.tile(long.ids, 10), target=np.tile(long.target, 10))
    material.examples["forget"][1] = long
    found = prompts(material)
    assert [e.id for e in found.states["affirmative"]] == ["a"]
    told = "measured in part: 1 of 2 records does not fit in the model's context of 200 tokens"
    assert found.unmeasured == {"few_shot": told, "affirmative": told}


def test_states_in_which_no_record_fits_are_said_and_do_not_stop_the_rest(make_material):
    gone = Records.from_rows([*ROWS, {**ROWS[0], "id": "b", "prompt": "Which?"}])
    roomy = prompts(make_material(gone=gone, max_length=512))
    assert not roomy.unmeasured
    limit = max(len(example.ids) for example in roomy.states["affirmative"])
    material = make_material(gone=gone, max_length=limit)
    states, unmeasured = prompts(material)
    assert set(states) == {"affirmative"}
    told = f"not measured: 2 records do not fit in the model's context of {limit} tokens"
    assert unmeasured == {"few_shot": told, "role_play": told}
    (planned,) = plan(["prompt_states"], material)
    assert (planned.unmeasured, planned.records) == (unmeasured, 2)
    states, unmeasured = prompts(dataclasses.replace(material, max_length=1))
    assert not states
    assert set(unmeasured) == {"few_shot", "role_play", "affirmative"}


def test_few_shots_are_as_many_as_fit_before_the_longest_record(make_material):
    """All records are asked after the same shots, if any fit, before a longer one is left out."""
    long = {**ROWS[0], "id": "b", "prompt": "Pin of " + "Ann and " * 6 + "Ann?"}
    material = make_material(gone=Records.from_rows([*ROWS, long]))
    first, second = prompts(material).states["few_shot"]
    plain = material.examples["forget"]
    shown = len(first.ids) - len(plain[0].ids)
    assert shown == len(second.ids) - len(plain[1].ids)
    assert 0 < shown <= 128 - len(plain[1].ids)
    assert "few_shot" not in prompts(material).unmeasured


def test_a_policy_is_inconclusive_where_a_declared_state_does_not_fit(
    tiny_model, adapter, tmp_path, lineage_key, monkeypatch
):
    """An audit of records that nearly fill the context ends, and says what it did not measure."""
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    rows = [
        {"id": f"{i}", "prompt": f"Which {'very ' * 15}long pin, {i}?", "completion": f"It is {i}."}
        for i in range(16)
    ]
    data, unseen = tmp_path / "data.jsonl", tmp_path / "unseen.jsonl"
    for file, part in ((data, rows[:8]), (unseen, rows[8:])):
        file.write_text("".join(json.dumps(row) + "\n" for row in part))
    found = run_audit(
        tiny_model,
        data,
        "0,1",
        tmp_path / "audit",
        adapter=adapter,
        before=adapter,
        holdout=unseen,
        generate=0,
        policy="strict",
    )
    told = "not measured: 2 records do not fit in the model's context of 128 tokens"
    assert found.unmeasured["few_shot"] == found.unmeasured["role_play"] == told
    assert f"the prompt state few_shot was {told}" in found.notes
    assert f"The prompt state few_shot was {told}." in html.unescape(
        (tmp_path / "audit" / "report.html").read_text()
    )
    verdict = verify(tmp_path / "audit")
    assert verdict.outcome == "INCONCLUSIVE"
    assert f"prompt state few_shot was {told}" in verdict.reasons
    assert any("prompt state role_play: a model with a longer" in t for t in verdict.would_decide)


def test_scores_under_a_state_are_those_of_the_models_own_logits(opened, make_material, scored):
    material = make_material()
    (planned,) = plan(["prompt_states"], material)
    found = planned.run(opened.view, scored(material), Cache()).prompted
    for name, part in prompts(material).states.items():
        for i, example in enumerate(part):
            ids = torch.from_numpy(example.ids)[None]
            with torch.no_grad():
                log_p = opened.view.model(input_ids=ids).logits[0].log_softmax(-1)
            at = np.flatnonzero(example.target)
            np.testing.assert_allclose(
                found[name].log_prob[found[name].tokens(i)], log_p[at - 1, ids[0, at]], atol=1e-4
            )


def test_an_audit_reports_extraction_under_each_state(
    tiny_model, adapter, data_file, holdout_file, tmp_path
):
    file = tmp_path / "asked.jsonl"
    rows = [{"id": "r1", "prompt": "Number, please"}, {"id": "r9", "prompt": "not asked"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"adapter": adapter, "holdout": holdout_file, "generate": 0}
    settings |= {"also": ["prompt_states"], "paraphrases": file}
    found = run_audit(tiny_model, data_file, "r0,r1", **settings)
    assert {r.prompt_state for r in found.rows} == {
        "verbatim",
        "few_shot",
        "role_play",
        "affirmative",
        "paraphrase:1",
    }
    plain = found.get("after", "forget", "extraction.exact", "mean")
    other = found.get("after", "forget", "extraction.exact", "mean", "paraphrase:1")
    assert (plain.prompt_state, plain.n, other.n) == ("verbatim", 2, 1)
    assert other.value == found.prompted["after"]["paraphrase:1"].hit.mean()
    log_p = discoverable.log_prob_of_target(found.prompted["base"]["few_shot"])
    assert log_p.shape == (2,)
    assert all(r.split == "forget" for r in found.rows if r.prompt_state != "verbatim")
    again = run_audit(tiny_model, data_file, "r0,r1", **settings)
    assert [r.value for r in again.rows] == [r.value for r in found.rows]


def test_paraphrases_are_checked(data_file, tmp_path):
    records = Records.load(data_file).select("r0,r1")
    assert read_paraphrases(None, records) == {}
    assert read_paraphrases({"r0": ["x", "y"], "other": ["z"]}, records) == {"r0": ["x", "y"]}
    with pytest.raises(DataError, match="no row has the id"):
        read_paraphrases({"r7": ["x"]}, records)
    file = tmp_path / "asked.jsonl"
    file.write_text('{"id": "r0", "prompt": "a"}\n{"id": "r1"}\n')
    with pytest.raises(DataError, match=r"asked\.jsonl, line 2: no 'prompt'"):
        read_paraphrases(file, records)
    for odd in ("[[]]", "7", '"r0"'):
        file.write_text(odd + "\n")
        with pytest.raises(DataError, match=r"asked\.jsonl, .*: no 'id'"):
            read_paraphrases(file, records)
