from __future__ import annotations

import numpy as np
import pytest
import torch

from unlearn.data.tokenization import Example, Span
from unlearn.errors import DataError, OptionError
from unlearn_eval.passes import PASSES, plan
from unlearn_eval.passes.prefix import inserted, prefixed, shots_prefix
from unlearn_eval.passes.recall import sides_and_prefix
from unlearn_eval.scores.cache import Cache


def by_hand(model, prefix: list[int], example: Example) -> float:
    """Mean log-probability of the targets after a prefix, from the model's own logits."""
    body = example.ids.tolist()[1:]
    assert example.ids[0] == 0  # the marker that begins a text
    ids = torch.tensor([prefix + body])
    with torch.no_grad():
        log_p = model(input_ids=ids).logits[0].log_softmax(-1)
    at = len(prefix) + np.flatnonzero(example.target) - 1
    return float(log_p[at - 1, ids[0, at]].mean())


def test_scores_equal_those_of_the_models_own_logits(opened, make_material, scored):
    material = make_material(max_length=128)
    scores = scored(material)
    (planned,) = plan(["recall"], material)
    found = planned.run(opened.view, scores, Cache()).measures
    assert planned.records == 2 + 4  # half of the holdout is the prefix
    sides, prefix = sides_and_prefix(material, "recall")
    assert prefix[0] == 0
    assert 1 not in prefix  # no marker that ends a text
    assert set(found) == {"forget", "holdout"}
    for split, (positions, part) in sides.items():
        (measure,) = found[split]
        assert measure.probe == "membership.recall"
        np.testing.assert_array_equal(measure.positions, positions)
        plain = scores[split].per_record(scores[split].log_prob)[positions]
        expected = [by_hand(opened.view.model, prefix.tolist(), e) for e in part]
        np.testing.assert_allclose(measure.values, expected / plain, rtol=1e-4)
    shots = set(range(8)) - set(sides["holdout"][0].tolist())
    assert len(shots) == 4
    text = material.tokenizer.decode(prefix)
    assert sum(material.records["holdout"][i].completion in text for i in shots) >= 1
    assert not any(material.records["holdout"][i].completion in text for i in sides["holdout"][0])


def test_con_recall_contrasts_with_members(opened, make_material, scored):
    material = make_material()
    scores = scored(material)
    run = [
        planned.run(opened.view, scores, Cache())
        for planned in plan(["recall", "con_recall"], material)
    ]
    plain = run[0].measures["forget"][0].values
    contrast = run[1].measures["forget"][0]
    assert contrast.params == {"gamma": 0.5}
    # the ratio with the members' prefix is what was taken off, half of it
    ratio = (plain - contrast.values) / 0.5
    assert ((ratio > 0.5) & (ratio < 2)).all()


def test_as_many_records_as_fit_are_shown(make_material):
    material = make_material()
    shots = material.examples["holdout"]
    whole = shots_prefix(material, shots, longest=0)
    assert len(whole) <= 128
    one = shots_prefix(material, shots, 128 - len(shots[0].ids) - 2)
    np.testing.assert_array_equal(one[: len(shots[0].ids) - 1], shots[0].ids[:-1])
    with pytest.raises(DataError, match="longest record has 120 tokens"):
        shots_prefix(material, shots, 120)


def test_tokens_go_in_without_moving_targets_off_their_tokens(make_material):
    example = Example(
        "a", np.array([0, 5, 6, 7, 8]), np.array([0, 0, 1, 1, 1], bool), (Span(3, 4, "pin"),)
    )
    longer = inserted(example, np.array([9, 9]), 2)
    assert longer.ids.tolist() == [0, 5, 9, 9, 6, 7, 8]
    assert longer.ids[longer.target].tolist() == example.ids[example.target].tolist()
    assert longer.ids[longer.secrets[0].start : longer.secrets[0].end].tolist() == [7]
    late = inserted(example, np.array([9]), 4)
    assert late.secrets == example.secrets
    after = prefixed(make_material(), example, np.array([0, 3]))
    assert after.ids.tolist() == [0, 3, 5, 6, 7, 8]
    assert after.ids[after.target].tolist() == [6, 7, 8]
    assert (after.secrets[0].start, after.secrets[0].end) == (4, 5)


def test_refuses_unknown_passes_and_missing_records(make_material):
    with pytest.raises(OptionError, match=r"did you mean 'recall'"):
        plan(["recal"], make_material())
    with pytest.raises(DataError, match="pass --holdout with two or more"):
        plan(["recall"], make_material(without=("holdout",)))
    with pytest.raises(DataError, match="retain records first, and there are 0"):
        plan(["con_recall"], make_material(without=("retain",)))
    assert len(plan(["recall", "recall"], make_material())) == 1
    assert set(PASSES) >= {"grad_norm", "recall", "con_recall"}
