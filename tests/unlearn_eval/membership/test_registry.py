from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

from unlearn_eval.membership import ATTACKS, CALIBRATED


def test_names_match_files_and_papers_are_given():
    assert list(ATTACKS) == ["loss", "reference", "zlib", "min_k", "min_k_plus_plus", "ez"]
    for name, attack in ATTACKS.items():
        module = importlib.import_module(f"unlearn_eval.membership.{name}")
        assert attack.name == name
        assert attack.score is module.score
        assert attack.paper.startswith("https://arxiv.org/abs/")
        assert attack.summary
    assert [a.name for a in ATTACKS.values() if a.needs_base] == ["reference", "ez"]


def test_calibrated_attacks_are_described_too():
    assert list(CALIBRATED) == ["lira", "rmia", "deviation", "quantile", "u_lira"]
    assert not set(CALIBRATED) & set(ATTACKS)
    for name, attack in CALIBRATED.items():
        module = importlib.import_module(f"unlearn_eval.membership.calibrated.{name}")
        assert (attack.name, attack.paper, attack.summary) == (name, module.PAPER, module.SUMMARY)
        assert attack.paper.startswith("https://arxiv.org/abs/")
        assert attack.needs
    assert [a.name for a in CALIBRATED.values() if a.compare is None] == ["u_lira"]


@pytest.mark.parametrize("name", ATTACKS)
def test_larger_means_more_likely_a_member(make_scores, name):
    """A record the adapter learnt must outscore one it never saw, whichever the attack."""
    rng = np.random.default_rng(3)
    unseen = -rng.uniform(2, 4, 12)
    learnt = unseen + 1.5
    hit = np.arange(24) % 4 == 0
    target = make_scores([learnt, unseen], text_bytes=[40, 40], hit=hit)
    base = make_scores([unseen, unseen + rng.normal(0, 0.1, 12)], text_bytes=[40, 40], hit=hit)
    member, nonmember = ATTACKS[name].score(target, base)
    assert member > nonmember


@pytest.mark.parametrize("name", ATTACKS)
def test_record_order_does_not_matter(make_scores, name):
    rng = np.random.default_rng(4)
    lists = [-rng.exponential(size=n) for n in (3, 1, 8, 5)]
    n = sum(map(len, lists))
    columns = {"text_bytes": [9, 8, 7, 6], "hit": rng.random(n) < 0.3, "std": rng.random(n) + 0.1}
    target = make_scores(lists, **columns)
    base = make_scores([x - rng.random(len(x)) for x in lists])
    order = [2, 0, 3, 1]
    score = ATTACKS[name].score
    np.testing.assert_allclose(
        score(target.take(order), base.take(order)), score(target, base)[order], rtol=1e-14
    )
    assert score(target.take([]), base.take([])).shape == (0,)


def test_neither_this_nor_listing_passes_imports_torch():
    names = ("membership", "extraction", "statistics", "passes")  # in one process, which is slow
    modules = ", ".join(f"unlearn_eval.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
