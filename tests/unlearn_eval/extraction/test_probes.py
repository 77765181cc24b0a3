from __future__ import annotations

import importlib

import numpy as np
import pytest

from unlearn_eval.extraction import PROBES
from unlearn_eval.scores.token_scores import SAMPLER


def test_names_match_files():
    assert list(PROBES) == ["verbatim", "strength", "exact", "discoverable", "secret"]
    for name, probe in PROBES.items():
        module = importlib.import_module(f"unlearn_eval.extraction.{name}")
        assert probe.score is module.score
        assert probe.metrics is module.METRICS
        assert all(metric.startswith(("rate", "mean")) for metric in probe.metrics)
        assert probe.paper.startswith("https://arxiv.org/abs/")


@pytest.mark.parametrize("name", PROBES)
def test_all_agree_at_the_extremes_and_take_no_records(make_hits, make_scores, name):
    known, unknown = np.zeros(4), np.full(4, -np.inf)
    scores = make_scores(
        [known, unknown, known[:1], unknown[:1]],
        hit=[1] * 4 + [0] * 4 + [1, 0],
        secret=[0, 1, 1, 0] * 2 + [1, 1],
        sampled={SAMPLER: [*known, *unknown, 0, -np.inf]},
    )
    probe = PROBES[name]
    for options in probe.metrics.values():
        assert probe.score(scores, **options).tolist() == [1, 0, 1, 0]
        assert probe.score(scores.take([]), **options).shape == (0,)
