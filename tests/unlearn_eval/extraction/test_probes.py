from __future__ import annotations

import importlib

from unlearn_eval.extraction import PROBES


def test_names_match_files():
    assert list(PROBES) == ["verbatim", "strength", "exact"]
    for name, probe in PROBES.items():
        module = importlib.import_module(f"unlearn_eval.extraction.{name}")
        assert probe.score is module.score
        assert probe.metric in {"rate", "mean"}
        assert probe.paper.startswith("https://arxiv.org/abs/")


def test_all_agree_at_the_extremes_and_take_no_records(make_hits):
    scores = make_hits("+++", "---", "+", "-")
    for probe in PROBES.values():
        assert probe.score(scores).tolist() == [1, 0, 1, 0]
        assert probe.score(scores.take([])).shape == (0,)
