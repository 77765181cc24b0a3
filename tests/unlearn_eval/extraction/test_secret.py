from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError
from unlearn_eval.extraction import secret
from unlearn_eval.scores.token_scores import SAMPLER


def scores_of(make_scores):
    """Two secrets in the first record, none in the second, one in the third."""
    return make_scores(
        [[-1.0] * 5, [-1.0], [-1.0] * 2],
        hit=[0, 1, 1, 0, 1, 1, 1, 0],
        secret=[0, 1, 1, 2, 2, 0, 1, 1],
        sampled={SAMPLER: [-9, -0.5, -0.5, -0.1, -0.2, 0, -2, -np.inf]},
    )


def test_a_secret_counts_when_all_its_tokens_are_first_choices(make_scores):
    scores = scores_of(make_scores)
    assert secret.has_secret(scores).tolist() == [True, False, True]
    part = scores.take(secret.has_secret(scores))
    # the first record's first secret is complete, the miss before it does not matter
    assert secret.score(part).tolist() == [True, False]
    assert scores.spans(0) == [slice(1, 3), slice(3, 5)]
    assert scores.spans(1) == []
    assert scores.spans(-1) == [slice(6, 8)]


def test_sampling_counts_the_likeliest_secret(make_scores):
    part = scores_of(make_scores).take([0, 2])
    np.testing.assert_allclose(secret.log_prob_of_secret(part), [-0.3, -np.inf])
    assert secret.score(part, n=1, p=0.7).tolist() == [True, False]  # e^−.3 = .741
    assert secret.score(part, n=1, p=0.75).tolist() == [False, False]
    assert secret.score(part, n=2, p=0.75).tolist() == [True, False]


def test_refuses_records_without_a_secret_and_scores_without_sampling(make_scores):
    with pytest.raises(DataError, match="record 'r1' has no secret"):
        secret.score(scores_of(make_scores))
    assert not secret.has_secret(make_scores([[-1.0]])).any()
    with pytest.raises(DataError, match="no sampling"):
        secret.log_prob_of_secret(make_scores([[-1.0]], secret=[1]))


def test_spans_come_from_the_records(tiny_model):
    """The declared characters, and only those, become the secret's tokens."""
    from transformers import AutoTokenizer

    from unlearn.data.records import Records
    from unlearn.data.templates import Template
    from unlearn.data.tokenization import encode
    from unlearn_eval.scores.model_scores import _secret_tokens

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [
        {
            "prompt": "What is the number?",
            "completion": "It is 12345, or 77.",
            "secrets": [
                {"field": "completion", "start": 6, "end": 11, "kind": "phone"},
                {"field": "completion", "start": 16, "end": 18, "kind": "code"},
            ],
        },
        {
            "prompt": "Ann 99",
            "completion": "yes",
            "secrets": [{"field": "prompt", "start": 4, "end": 6, "kind": "code"}],
        },
    ]
    examples = encode(Records.from_rows(rows), tokenizer, Template("qa"), 128)
    numbers = _secret_tokens(examples)
    assert len(numbers) == sum(e.targets for e in examples)
    targets = examples[0].ids[examples[0].target]
    first = numbers[: len(targets)]
    assert tokenizer.decode(targets[first == 1].tolist()).strip() == "12345"
    assert tokenizer.decode(targets[first == 2].tolist()).strip() == "77"
    assert not numbers[len(targets) :].any()  # a secret of the prompt is no target
