from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from scipy import stats

from unlearn.data.tokenization import Example
from unlearn.model.generation import end_tokens
from unlearn_eval.passes import plan
from unlearn_eval.passes.neighbourhood import NEIGHBOURS, neighbours
from unlearn_eval.scores.cache import Cache


def test_copies_differ_in_a_tenth_of_the_targets_only(opened, make_material):
    material = make_material()
    part = material.examples["holdout"]
    ends = end_tokens(opened.view.model, material.tokenizer)
    for example, copies in zip(part, neighbours(opened.view, part, ends), strict=True):
        assert len(copies) == NEIGHBOURS
        for copy in copies:
            other = copy.ids != example.ids
            assert other.sum() == max(1, round(0.1 * example.targets))
            assert example.target[other].all()
            assert not np.isin(example.ids[other], ends).any()
            np.testing.assert_array_equal(copy.target, example.target)
        assert len({copy.ids.tobytes() for copy in copies}) > NEIGHBOURS / 2


def test_tokens_are_drawn_from_the_model_without_the_true_one(opened):
    example = Example("a", np.array([0, 40, 41]), np.array([False, False, True]))
    copies = neighbours(opened.view, [example], np.array([1]), copies=4000)[0]
    drawn = Counter(int(copy.ids[2]) for copy in copies)
    with torch.no_grad():
        p = opened.view.model(input_ids=torch.tensor([[0, 40]])).logits[0, -1].softmax(-1)
    p[41] = 0
    p = (p / p.sum()).double().numpy()
    top = np.argsort(-p)[:5]
    assert drawn[41] == 0
    for token in top:
        assert stats.binomtest(drawn[int(token)], 4000, p[token]).pvalue > 1e-4


def test_a_lone_end_token_is_changed(opened):
    example = Example("a", np.array([0, 40, 1]), np.array([False, False, True]))
    (copies,) = neighbours(opened.view, [example], np.array([1]), copies=3)
    assert all(copy.ids[2] != 1 for copy in copies)


def test_the_score_is_the_mean_over_copies_and_repeats(opened, make_material, scored):
    material = make_material()
    scores = scored(material)
    (planned,) = plan(["neighbourhood"], material)
    first = planned.run(opened.view, scores, Cache()).measures["forget"][0]
    second = planned.run(opened.view, scores, Cache()).measures["forget"][0]
    np.testing.assert_array_equal(first.values, second.values)
    (other,) = plan(["neighbourhood"], make_material(seed=1))
    assert (
        other.run(opened.view, scores, Cache()).measures["forget"][0].values != first.values
    ).any()

    part = material.examples["forget"]
    ends = end_tokens(opened.view.model, material.tokenizer)
    for i, copies in enumerate(neighbours(opened.view, part, ends, seed=(0, 0))):
        means = []
        for copy in copies:
            ids = torch.from_numpy(copy.ids)[None]
            with torch.no_grad():
                log_p = opened.view.model(input_ids=ids).logits[0].log_softmax(-1)
            at = np.flatnonzero(copy.target)
            means.append(float(log_p[at - 1, ids[0, at]].mean()))
        plain = scores["forget"].log_prob[scores["forget"].tokens(i)].mean()
        np.testing.assert_allclose(first.values[i], plain - np.mean(means), rtol=1e-3, atol=1e-5)
