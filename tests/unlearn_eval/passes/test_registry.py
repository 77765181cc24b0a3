from __future__ import annotations

import importlib
import subprocess
import sys

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


def test_listing_passes_imports_no_torch():
    code = "import sys, unlearn_eval.passes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
