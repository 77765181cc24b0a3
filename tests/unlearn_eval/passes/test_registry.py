from __future__ import annotations

import importlib

from unlearn_eval.passes import PASSES


def test_names_match_files_and_papers_are_given():
    assert list(PASSES) == [
        "grad_norm",
        "recall",
        "con_recall",
        "neighbourhood",
        "prompt_states",
        "exposure",
        "truth_ratio",
    ]
    for name, entry in PASSES.items():
        package, _, probe = entry.probe.partition(".")
        module = importlib.import_module(f"unlearn_eval.{package}.{probe}")
        assert name == entry.name == probe
        assert (entry.paper, entry.summary) == (module.PAPER, module.SUMMARY)
        assert entry.paper.startswith("https://arxiv.org/abs/")
        assert entry.cost
        assert callable(importlib.import_module(f"unlearn_eval.passes.{name}").plan)
