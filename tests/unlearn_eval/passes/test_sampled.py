from __future__ import annotations

import numpy as np
import pytest
import torch

from unlearn.apps.demo import base_path
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import OptionError
from unlearn.model.scoring import score_examples
from unlearn.model.state import open_model
from unlearn_eval.extraction.sampled import agreement
from unlearn_eval.passes.sampled import sampled_hits

TEXTS = [
    "The phone number of the office is in the book.",
    "She works as a nurse in the city.",
    "He lives in the house.",
]


@pytest.fixture(scope="module")
def state():
    return open_model(base_path())


@pytest.fixture(scope="module")
def examples(state) -> list[Example]:
    """Beginnings of texts, each with the two tokens that the model finds likely after it."""
    found = []
    for i, row in enumerate(
        encode(
            Records.from_rows([{"text": t} for t in TEXTS]),
            state.tokenizer,
            Template("none"),
            state.max_length,
        )
    ):
        ids = row.ids[: len(row.ids) // 2]
        for _ in range(2):
            with torch.no_grad():
                logits = state.model(input_ids=torch.from_numpy(ids)[None]).logits[0, -1]
            # not the likeliest token alone: the second one for one record
            ids = np.append(ids, int(logits.topk(2).indices[int(i == 1)]))
        target = np.arange(len(ids)) >= len(ids) - 2
        found.append(Example(str(i), ids, target))
    return found


@pytest.mark.parametrize(
    "sampler", [(1.0, 40), *(pytest.param(s, marks=pytest.mark.slow) for s in ((0.8, 5), (1.3, 0)))]
)
def test_hits_on_the_demo_base_are_as_many_as_teacher_forcing_says(state, examples, sampler):
    n = 400
    hits = sampled_hits(state.model, examples, n, sampler=sampler)
    found, offsets = score_examples(state.model, state.head, examples, samplers=[sampler])
    log_p = np.add.reduceat(found.sampled[sampler].double().numpy(), offsets[:-1])
    told = agreement(hits, n, log_p)
    assert (told.p_value > 1e-3).all()
    assert told.overall > 1e-3
    assert told.predicted.max() > 0.05  # the check could fail
    assert agreement(hits, n, log_p + np.log(0.5)).overall < 1e-4


def test_the_end_of_a_text_is_sampled_like_any_token(state, examples):
    end = state.tokenizer.eos_token_id
    example = Example("e", np.append(examples[0].ids, end), np.append(examples[0].target, True))
    found, _ = score_examples(state.model, state.head, [example], samplers=[(1.0, 0)])
    hits = sampled_hits(state.model, [example], 300, sampler=(1.0, 0))
    assert agreement(hits, 300, [float(found.log_prob.sum())]).overall > 1e-3


def test_draws_repeat_and_leave_no_trace(state, examples):
    state.model.train()
    before = torch.random.get_rng_state()
    first = sampled_hits(state.model, examples, 20, token_budget=50)
    assert (first == sampled_hits(state.model, examples, 20, token_budget=50)).all()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert state.model.training
    state.model.eval()
    with pytest.raises(OptionError, match="above 0"):
        sampled_hits(state.model, examples, 0)
    with pytest.raises(OptionError, match="above 0"):
        sampled_hits(state.model, examples, 1, sampler=(0.0, 1))
