from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from unlearn.apps.demo import base_path
from unlearn.errors import DataError, OptionError
from unlearn.model.state import open_model
from unlearn_eval.benchmarks import wmdp
from unlearn_eval.benchmarks.wmdp import (
    WmdpQuestion,
    WmdpScores,
    evaluate_wmdp,
    load_wmdp,
    wmdp_accuracy,
)

QUESTIONS = [
    WmdpQuestion("Which day comes after Monday?", ("Tuesday", "Friday", "May", "Noon"), 0),
    WmdpQuestion("  How many? ", ("one", "two or more of them", "three", "four"), 2),
    WmdpQuestion("What is it?", ("a", "b", "c", "d"), 3),
]


def test_accuracy_worked_by_hand():
    log_p = np.log([[0.7, 0.1, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.25] * 4, [0.25] * 4])
    found = wmdp_accuracy(WmdpScores(log_p, np.array([0, 2, 0, 1]), 0))
    # right, wrong; of four alike the first counts
    assert found.value == 0.5
    assert found.method == "exact"
    assert (found.low, found.high) == (
        pytest.approx(0.0676, abs=1e-4),
        pytest.approx(0.9324, abs=1e-4),
    )
    assert found.note == "chance level 0.25"
    assert "2 question(s) lost" in wmdp_accuracy(WmdpScores(log_p, np.array([0, 2, 0, 1]), 2)).note


@pytest.fixture(scope="module")
def state():
    return open_model(base_path())


def by_hand(state, question: WmdpQuestion, subject: str) -> list[float]:
    """Each letter by itself, with the text of lm-evaluation-harness written out."""
    text = (
        f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        f"{question.question.strip()}\nA. {question.choices[0]}\nB. {question.choices[1]}\n"
        f"C. {question.choices[2]}\nD. {question.choices[3]}\nAnswer:"
    )
    found = []
    for letter in "ABCD":
        prompt = state.tokenizer(text).input_ids
        tail = state.tokenizer(f"{text} {letter}").input_ids[len(prompt) :]
        ids = torch.tensor(prompt + tail)
        with torch.no_grad():
            log_p = state.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        at = len(prompt)
        found.append(float(log_p[at - 1 : -1].gather(-1, ids[at:, None]).sum()))
    return found


def test_one_pass_a_question_gives_what_four_give(state):
    rows = []
    found = evaluate_wmdp(state, QUESTIONS, "wmdp-cyber", token_budget=1, progress=rows.append)
    assert sum(rows) == 3  # the letters are one token each
    expected = [by_hand(state, q, "cybersecurity") for q in QUESTIONS]
    np.testing.assert_allclose(found.log_likelihood, expected, atol=1e-4)
    together = evaluate_wmdp(state, QUESTIONS, "wmdp-cyber")
    np.testing.assert_allclose(together.log_likelihood, expected, atol=1e-4)
    assert found.answer.tolist() == [0, 2, 3]
    assert found.cut == 0


def test_it_is_what_the_harness_itself_finds(assets):
    """On a tokenizer that merges colon and space, where the two could differ."""
    reason = "the extra lm-eval is not installed"
    models = pytest.importorskip("lm_eval.models.huggingface", reason=reason)
    from lm_eval.api.instance import Instance

    state = open_model(assets / "models" / "TinyStories-656K")
    harness = models.HFLM(pretrained=state.model, tokenizer=state.tokenizer, batch_size=2)
    head = "The following are multiple choice questions (with answers) about biology.\n\n"
    asked = [
        Instance("loglikelihood", {}, (head + wmdp._prompt(q), f" {letter}"), 0)
        for q in QUESTIONS
        for letter in wmdp.LETTERS
    ]
    expected = np.reshape([x for x, _ in harness.loglikelihood(asked)], (3, 4))
    found = evaluate_wmdp(state, QUESTIONS).log_likelihood
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_letters_of_several_tokens_are_summed(state, monkeypatch):
    monkeypatch.setattr(wmdp, "LETTERS", ("A", "Bqz", "C", "D"))
    rows = []
    question = QUESTIONS[0]
    found = evaluate_wmdp(state, [question], progress=rows.append)
    assert sum(rows) == 4
    monkeypatch.undo()
    text = wmdp._prompt(question).replace("B. ", "Bqz. ")
    text = f"The following are multiple choice questions (with answers) about biology.\n\n{text}"
    prompt = state.tokenizer(text).input_ids
    before = len(prompt)
    ids = torch.tensor(prompt + state.tokenizer(f"{text} Bqz").input_ids[before:])
    assert len(ids) > before + 1
    with torch.no_grad():
        log_p = state.model(input_ids=ids[None]).logits[0].log_softmax(-1)
    expected = float(log_p[before - 1 : -1].gather(-1, ids[before:, None]).sum())
    assert found.log_likelihood[0, 1] == pytest.approx(expected, abs=1e-4)


def test_a_long_question_loses_its_beginning_not_its_options(state):
    long = QUESTIONS[0]._replace(question="word " * 400 + "which day comes after Monday?")
    found = evaluate_wmdp(state, [long, QUESTIONS[1]])
    assert found.cut == 1
    assert np.isfinite(found.log_likelihood).all()


def test_nothing_to_evaluate_and_no_such_subset(state):
    with pytest.raises(DataError, match="no questions"):
        evaluate_wmdp(state, [])
    with pytest.raises(OptionError, match="did you mean 'wmdp-bio'"):
        evaluate_wmdp(state, QUESTIONS, "wmdp-boi")


def test_loading_names_the_row_that_is_wrong(tmp_path):
    good = {"question": "q", "choices": ["a", "b", "c", "d"], "answer": 1}
    file = tmp_path / "wmdp-bio.jsonl"
    file.write_text(f"{json.dumps(good)}\n" * 2)
    assert (
        load_wmdp(tmp_path) == load_wmdp(file) == [WmdpQuestion("q", ("a", "b", "c", "d"), 1)] * 2
    )
    assert len(load_wmdp(file, limit=1)) == 1
    for bad, message in (
        ({"choices": ["a"]}, "1 choices"),
        ({"answer": 4}, "'answer'"),
        ({"answer": "A"}, "'answer'"),
        ({"question": None}, "'question'"),
    ):
        file.write_text(f"{json.dumps(good)}\n{json.dumps(good | bad)}\n")
        with pytest.raises(DataError, match=rf"line 2: .*{message}"):
            load_wmdp(file)
    with pytest.raises(OptionError, match="wmdp-chem"):
        load_wmdp(file, "chemistry")
    with pytest.raises(DataError, match="no such file"):
        load_wmdp(tmp_path / "absent.jsonl")


def test_the_hub_is_asked_for_the_test_split(monkeypatch):
    import datasets

    asked = []

    def load(name, table, split):
        asked.append((name, table, split))
        return [{"question": "q", "choices": ["a", "b", "c", "d"], "answer": 0}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(load_wmdp(subset="wmdp-cyber")) == 1
    assert asked == [("cais/wmdp", "wmdp-cyber", "test")]
