"""Equal budgets, on records that are not reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlearn.compare import lay_out
from unlearn.compare.comparing import compare
from unlearn.compare.data import Pool
from unlearn.compare.tuning import check_tuning, chosen_of, trials_of, tuned, tuning_recipe
from unlearn.errors import OptionError, SelectionError
from unlearn_eval.comparison import Comparison, Outcome

FEW = {"max_steps": 2, "batch_size": 2}
SEARCH = {"learning_rate": [1e-3, 1e-2, 1e-1], "beta": [0.1, 0.2]}
METHODS = [
    {"method": "npo", "options": FEW, "search": SEARCH},
    {"name": "small", "method": "wga", "options": FEW, "search": {"alpha": [1.0, 2.0]}},
    {"method": "undial", "options": FEW},
]
TUNE = {"trials": 4, "forget": "r6,r7"}


@pytest.fixture
def searched(recipe):
    return recipe(methods=METHODS, tune=TUNE, forget="r0,r1", seeds=(0,))


def test_every_method_has_the_same_budget_and_begins_with_its_own(searched):
    found = trials_of(searched)
    assert {name: len(tried) for name, tried in found.items()} == {
        "npo": 4,
        "small": 3,  # its space holds no more
        "undial": 1,
    }
    for tried in found.values():
        assert tried[0] == FEW
        assert len({json.dumps(options, sort_keys=True) for options in tried}) == len(tried)
    for options in found["npo"][1:]:
        assert options["learning_rate"] in SEARCH["learning_rate"]
        assert options["beta"] in SEARCH["beta"]
    assert trials_of(searched) == found
    other = searched.model_copy(update={"tune": searched.tune.model_copy(update={"seed": 2})})
    assert trials_of(other)["npo"] != found["npo"]


def test_trials_run_on_the_validation_records_and_share_the_target(searched, study, recipe):
    trials = tuning_recipe(searched)
    assert trials.forget_sets == ("r6,r7",)
    assert len(trials.methods) == 8
    assert trials.tune is None
    plain = lay_out(study(methods=METHODS, forget="r0,r1"))
    again = lay_out(study(**(trials.model_dump() | {"model": trials.model})))
    assert again.target.digest == plain.target.digest
    assert not {s.folder for s in again.references[0]} & {s.folder for s in plain.references[0]}


def test_the_closest_that_kept_the_rest_is_taken(searched):
    # of small: kept and far, kept and near, nearest but damaged; npo: all damaged; undial: failed
    results = {
        "small trial 0": (0.30, 0.01),
        "small trial 1": (0.20, 0.09),
        "small trial 2": (0.01, 0.11),
        "npo trial 0": (0.10, 0.90),
        "npo trial 1": (0.40, 0.30),
        "npo trial 2": (0.00, 0.80),
    }
    outcomes = [Outcome(n, 0, 0, {"gap": g, "rise": r}) for n, (g, r) in results.items()]
    outcomes += [Outcome("npo trial 3", 0, 0, {"gap": 0.0, "rise": 0.0}, error="no")]
    trials = chosen_of(searched, Comparison("", outcomes))
    tried = trials_of(searched)
    best = {t.method: t.options for t in trials if t.chosen}
    assert best == {"small": tried["small"][1], "npo": tried["npo"][1], "undial": FEW}
    assert [t.gap for t in trials if t.method == "npo"] == [0.10, 0.40, 0.00, None]
    final = tuned(searched, trials)
    assert final.tune is None
    assert [m.options for m in final.methods] == [best["npo"], best["small"], FEW]
    assert [m.name or m.method for m in final.methods] == ["npo", "small", "undial"]
    assert not any(m.search for m in final.methods)


def test_what_is_reported_is_not_tuned_on(recipe):
    made = recipe(methods=METHODS, tune=TUNE, forget="r0,r1")
    pool = Pool.sketch(made)
    check_tuning(made, pool)
    with pytest.raises(SelectionError, match="shares 1 record"):
        check_tuning(recipe(methods=METHODS, tune=TUNE, forget=["r0", "r5,r6"]), pool)
    with pytest.raises(OptionError, match="nothing says to tune"):
        check_tuning(recipe(methods=METHODS), pool)
    empty = [{"method": "npo", "search": {"beta": []}}]
    with pytest.raises(OptionError, match="npo: beta"):
        check_tuning(recipe(methods=empty, tune=TUNE, forget="r0,r1"), pool)


@pytest.mark.slow
def test_a_tuned_comparison_reports_what_was_found(recipe, tmp_path: Path):
    methods = [
        {"method": "npo", "options": FEW, "search": {"learning_rate": [1e-3, 1e-1]}},
        {"method": "undial", "options": FEW},
    ]
    mine = recipe(
        methods=methods, tune={"trials": 2, "forget": "r6,r7"}, forget="r0,r1", seeds=(0,)
    )
    out = tmp_path / "out"
    done = compare(mine, out, dtype="float32")
    content = json.loads((out / "comparison.json").read_text())
    assert [t["method"] for t in content["tuning"]] == ["npo", "npo", "undial"]
    best = next(t for t in content["tuning"] if t["method"] == "npo" and t["chosen"])
    assert content["recipe"]["methods"][0]["options"] == best["options"]
    assert "How they were tuned" in (out / "report.html").read_text()
    assert [row[0] for row in done.rows] == ["before", "references", "npo", "undial"]
    assert compare(mine, out, dtype="float32").steps == 0
