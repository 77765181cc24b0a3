from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from unlearn.apps.demo import base_path, facts
from unlearn.errors import DataError
from unlearn.model.state import open_model
from unlearn_eval.benchmarks.muse import (
    MuseData,
    MuseScores,
    _overlap,
    evaluate_muse,
    load_muse,
    muse_metrics,
    privacy_leakage,
)
from unlearn_eval.utility import rouge


def test_privacy_leakage_worked_by_hand_and_its_sign():
    # members still recognised: A .1 against .5 → −80 %; pushed away: A .9 → +80 %
    assert privacy_leakage(0.9, 0.5) == pytest.approx(-80)
    assert privacy_leakage(0.1, 0.5) == pytest.approx(80)
    assert privacy_leakage(0.6, 0.6) == 0
    assert privacy_leakage(1.0, 0.3) == -100
    assert math.isnan(privacy_leakage(0.5, 1.0))


def scores(member, nonmember) -> MuseScores:
    some = np.array([0.2, 0.4, 0.6])
    return MuseScores(some, some / 2, some + 0.1, np.array(member), np.array(nonmember))


def test_metrics():
    after = scores([3.0, 3.0], [1.0, 2.0])
    never = scores([1.0, 3.0], [2.0, 2.0])
    assert "privacy_leakage" not in muse_metrics(after)
    found = muse_metrics(after, never)
    assert found["verbatim_memorisation"].value == pytest.approx(0.4)
    assert found["knowledge_memorisation"].value == pytest.approx(0.2)
    assert found["utility_preservation"].value == pytest.approx(0.5)
    assert found["member_auc"].value == 1
    assert found["privacy_leakage"].value == -100
    assert found["verbatim_memorisation"].method == "t"
    assert "nothing can be compared" in muse_metrics(never, after)["privacy_leakage"].note


def test_stems_are_compared_as_published_and_words_beside_them():
    both = _overlap(["running", "ran"], ["run", "ran"])
    assert both.stemmed.tolist() == [1, 1]
    assert both.unstemmed.tolist() == [0, 1]
    after = replace(scores([3.0, 3.0], [1.0, 2.0]), unstemmed={"verbatim": both.unstemmed})
    found = muse_metrics(after)
    assert found["verbatim_memorisation_unstemmed"].value == 0.5
    assert found["verbatim_memorisation"].value == pytest.approx(0.4)
    assert "knowledge_memorisation_unstemmed" not in found
    assert rouge.score(["running"], ["run"], stem=False).f1.tolist() == [0]
    assert rouge.score(["running"], ["run"]).f1.tolist() == [1]


@pytest.fixture(scope="module")
def state():
    return open_model(base_path())


def test_a_live_model(state):
    """The embedded model knows the answers to its facts, in the form of question and answer."""
    known = [(f["prompt"], f["completion"]) for f in facts()[:6]]
    whole = [f"Question: {q}\nAnswer: {a}" for q, a in known]
    data = MuseData(
        verbatim=[(f"Question: {q}\nAnswer:", f" {a}") for q, a in known],
        forget_qa=known[:2],
        forget_shots=known[4:],
        retain_qa=[("Qx?", "zzz"), ("Qy?", "xxx")],
        retain_shots=[],
        forget=whole,
        holdout=[text[::-1] for text in whole],
    )
    counted = []
    found = evaluate_muse(state, data, progress=counted.append)
    assert sum(counted) == 6 + 2 + 2 + 6 + 6
    assert found.verbatim.tolist() == [1] * 6
    assert found.forget_answers.shape == (2,)
    assert found.retain_answers.tolist() == [0, 0]
    assert found.member.min() > found.nonmember.max()
    assert (found.unstemmed["forget_answers"] <= found.forget_answers).all()
    assert muse_metrics(found)["member_auc"].value == 1


def test_membership_is_the_mean_of_the_lowest_two_fifths(state):
    import torch

    text = "Question: Which day comes after Monday?\nAnswer: Tuesday"
    data = MuseData([("a b", "c")], [("q", "a")], [], [("q", "a")], [], [text], ["b b b"])
    found = evaluate_muse(state, data).member[0]
    ids = torch.tensor(state.tokenizer(text).input_ids)
    with torch.no_grad():
        logits = state.model(input_ids=ids[None]).logits[0]
    values = logits[:-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0].sort().values
    assert found == pytest.approx(float(values[: int(0.4 * len(values))].mean()), abs=1e-4)


def test_answers_end_where_the_next_question_begins():
    from unlearn_eval.benchmarks.muse import _cut

    assert _cut(" Rome.\n\nQuestion: And") == " Rome."
    assert _cut("Rome\nQuestion: x") == "Rome"
    assert _cut("Rome Question: x") == "Rome "
    assert _cut("Rome") == "Rome"


def test_a_question_without_room_for_its_answer_is_named(state):
    data = MuseData([("word " * 300, "c")], [("q", "a")], [], [("q", "a")], [], ["t t"], ["b b"])
    with pytest.raises(DataError, match=r"verbatim row 0 has \d+ tokens: with 128 more"):
        evaluate_muse(state, data)
    lone = MuseData([("a b", "c")], [("q", "a")], [], [("q", "a")], [], ["t t"], [""])
    with pytest.raises(DataError, match="holdout text 0 has"):
        evaluate_muse(state, lone)


def test_loading(tmp_path):
    tables = {
        "verbmem/forget": {"prompt": "p", "gt": "g"},
        "knowmem/forget_qa": {"question": "q", "answer": "a"},
        "knowmem/retain_qa": {"question": "q", "answer": "a"},
        "knowmem/forget_qa_icl": {"question": "q", "answer": "a"},
        "privleak/forget": {"text": "t"},
        "privleak/holdout": {"text": "u"},
    }
    for name, row in tables.items():
        file = tmp_path / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps([row] * 3))  # a JSON array, as in the published repository
    with pytest.raises(DataError, match="retain_qa_icl"):
        load_muse(tmp_path)
    (tmp_path / "knowmem" / "retain_qa_icl.jsonl").write_text('{"question": "r", "answer": "b"}\n')
    found = load_muse(tmp_path, limit=2)
    assert found.verbatim == [("p", "g")] * 2
    assert found.forget_shots == [("q", "a")] * 3
    assert found.retain_shots == [("r", "b")]
    assert (found.forget, found.holdout) == (["t"] * 2, ["u"] * 2)


def test_the_hub_is_asked_for_tables_and_splits(monkeypatch):
    import datasets

    asked = []

    def load(name, table, split):
        asked.append((name, table, split))
        keys = ("prompt", "gt", "question", "answer", "text")
        return [dict.fromkeys(keys, "x")]

    monkeypatch.setattr(datasets, "load_dataset", load)
    load_muse()
    assert ("muse-bench/MUSE-News", "verbmem", "forget") in asked
    assert ("muse-bench/MUSE-News", "knowmem", "retain_qa_icl") in asked
    assert ("muse-bench/MUSE-News", "privleak", "holdout") in asked
