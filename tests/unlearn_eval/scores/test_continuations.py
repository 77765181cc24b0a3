from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unlearn.apps.demo import base_path, facts
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.model.state import open_model
from unlearn_eval.scores.continuations import continue_examples, continue_tokens, prompt_tokens


@pytest.fixture(scope="module")
def state():
    return open_model(base_path())


@pytest.fixture(scope="module")
def examples(state):
    """Questions of different lengths, most of which the embedded model can answer."""
    return encode(Records.from_rows(facts()[:24]), state.tokenizer, Template("qa"), 128)


def alone(state, example: Example, cut: int) -> list[int]:
    """Greedy decoding without batch, padding or cache."""
    ids = list(example.ids[:cut])
    written: list[int] = []
    while len(written) < len(example.ids) - cut:
        with torch.no_grad():
            best = int(state.model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax())
        if best == state.tokenizer.eos_token_id:
            break
        written.append(best)
    return written


@pytest.fixture(scope="module")
def written(state, examples):
    return [alone(state, e, int(np.flatnonzero(e.target)[0])) for e in examples]


@pytest.mark.parametrize("budget", [1, 4096])
def test_equals_greedy_decoding_of_one_record_alone(state, examples, written, budget):
    found = continue_examples(state.model, state.tokenizer, examples, token_budget=budget)
    for example, said, expected in zip(examples, found, written, strict=True):
        cut = int(np.flatnonzero(example.target)[0])
        assert said.tokens.tolist() == expected
        assert said.truth == state.tokenizer.decode(example.ids[cut:], skip_special_tokens=True)
        assert said.text == state.tokenizer.decode(said.tokens, skip_special_tokens=True)
    assert sum(said.text == said.truth for said in found) > 12  # it does know most of them


def test_says_the_truth_exactly_where_every_token_is_a_hit(state, examples):
    """Teacher forcing and generation must agree on what is extractable."""
    from unlearn.model.scoring import Head, score_examples

    scores, offsets = score_examples(state.model, Head.of(state.model), examples)
    verbatim = np.minimum.reduceat(scores.hit.numpy(), offsets[:-1])
    found = continue_examples(state.model, state.tokenizer, examples)
    assert [said.text == said.truth for said in found] == verbatim.tolist()


def test_says_whether_a_text_was_cut_or_ends_there(state, examples):
    whole = continue_examples(state.model, state.tokenizer, examples)
    known = [e for e, said in zip(examples, whole, strict=True) if said.text == said.truth]
    for missing, cut in ((1, False), (2, True)):  # of an answer that ends with an end token
        shorter = [Example(e.id, e.ids[:-missing], e.target[:-missing]) for e in known]
        for said in continue_examples(state.model, state.tokenizer, shorter):
            assert said.cut is cut
            assert said.text == said.truth
            assert said.shown == (f"{said.text}…" if cut else said.text)


def test_free_text_is_cut_in_the_middle_and_the_last_turn_is_what_is_continued(state):
    target = np.array([0, 1, 1, 1, 1, 1, 1, 1], dtype=bool)
    ids = np.array(state.tokenizer("Which day of the week comes after Monday?").input_ids[:8])
    text = Example("text", ids, target)
    turns = Example("turns", ids, np.array([0, 0, 1, 1, 0, 0, 1, 1], dtype=bool))
    found = continue_examples(state.model, state.tokenizer, [text, turns])
    decode = state.tokenizer.decode
    assert found[0].truth == decode(ids[4:], skip_special_tokens=True)
    assert found[1].truth == decode(ids[6:], skip_special_tokens=True)
    assert len(found[0].tokens) <= 4
    assert len(found[1].tokens) <= 2


def test_sampling_settings_of_the_folder_are_set_aside(state, examples, tmp_path: Path):
    plain = continue_examples(state.model, state.tokenizer, examples)
    config = state.model.generation_config
    kept = config.to_dict()
    try:
        config.update(do_sample=True, temperature=5.0, top_k=0, repetition_penalty=9.0)
        again = continue_examples(state.model, state.tokenizer, examples)
    finally:
        config.update(**{k: v for k, v in kept.items() if k != "transformers_version"})
    assert [s.text for s in again] == [s.text for s in plain]


def test_no_records_and_the_mode_of_the_model(state):
    assert continue_examples(state.model, state.tokenizer, []) == []
    state.model.train()
    continue_examples(state.model, state.tokenizer, [])
    assert state.model.training
    state.model.eval()


def test_each_beginning_is_continued_by_its_own_length_at_most(state, examples):
    beginnings = [e.ids[: int(np.flatnonzero(e.target)[0])] for e in examples[:4]]
    far = continue_tokens(state.model, state.tokenizer, beginnings, [40] * 4)
    short = continue_tokens(state.model, state.tokenizer, beginnings, [1, 2, 3, 40])
    assert all(len(ids) > 3 for ids in far)
    for length, whole, part in zip([1, 2, 3, 40], far, short, strict=True):
        assert part.tolist() == whole[:length].tolist()
    assert not np.isin(np.concatenate(far), state.tokenizer.eos_token_id).any()


def test_a_prompt_keeps_what_begins_a_text_and_not_what_ends_one(state):
    plain = prompt_tokens(state.tokenizer, "Answer:")
    assert plain[0] == state.tokenizer.bos_token_id

    class Ending:
        eos_token_id = state.tokenizer.eos_token_id

        def __call__(self, text, **options):
            found = state.tokenizer(text, **options)
            found["input_ids"] = [*found["input_ids"], self.eos_token_id]
            return found

    assert prompt_tokens(Ending(), "Answer:").tolist() == plain.tolist()
