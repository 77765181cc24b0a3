"""Equal budgets, on records that are not reported; trials that are found again, or given up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.apps.compare.comparing import compare, stages
from unlearn.apps.compare.data import Pool
from unlearn.apps.compare.estimate import costs, counts
from unlearn.apps.compare.execution import work
from unlearn.apps.compare.layout import DONE, lay_out
from unlearn.apps.compare.rounds import Tuning
from unlearn.apps.compare.tuning.trials import (
    TuningTrial,
    check_tuning,
    chosen_of,
    hopeless,
    own_values,
    tuned,
    tuning_recipe,
)
from unlearn.errors import OptionError, SelectionError

FEW = {"max_steps": 2, "batch_size": 2}
RATES = {"low": 1e-3, "high": 1e-1, "log": True}
METHODS = [
    {"method": "npo", "options": FEW, "search": {"learning_rate": RATES, "beta": [0.1, 0.2]}},
    {"name": "small", "method": "wga", "options": FEW, "search": {"beta": [1.0, 2.0, 3.0]}},
    {"method": "undial", "options": FEW},
]
TUNE = {"trials": 4, "forget": "r6,r7"}
UNSEEN = {"holdout": "rows:8-9", "validation": "rows:10-11"}


@pytest.fixture
def searched(recipe):
    return recipe(methods=METHODS, tune=TUNE, forget="r0,r1", seeds=(0,), **UNSEEN)


def row(state: str, split: str, probe: str, metric: str, value: float) -> dict[str, Any]:
    plain = {"deployment": "as-is", "prompt_state": "verbatim", "n": 2}
    return plain | {
        "state": state, "split": split, "probe": probe, "metric": metric, "value": value
    }  # fmt: skip


def do(round_: Any, measured: dict[str, tuple[float, float]], fail: str = "") -> list[str]:
    """Do a round as if by training; return the rows that were audited.

    Args:
        round_: the round.
        measured: gap and rise by trial; (0.2, 0.0) where nothing is said.
        fail: a trial that fails.
    """
    audited = []
    names = {cell.unlearn.folder: cell.name for cell in round_.layout.cells}
    for step in round_.waiting:
        name = names.get(step.folder) or names.get(step.parent) or ""
        if (name and name == fail) or (step.kind == "audit" and round_.spared(step)):
            continue
        gap, rise = measured.get(name, (0.2, 0.0))
        step.folder.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = {"wall": 1.0}
        if step.kind == "unlearn":
            facts["rise"] = {"mean": rise, "error": 0.01}
        if step.kind == "audit":
            audited += [name] if name else []
            rows = [
                row("before", "retain", "utility.loss", "mean", 1.0),
                row("after", "retain", "utility.loss", "mean", 1.0 + rise),
                row("after", "forget", "membership.loss", "auc", 0.5 + gap),
                row("reference:0", "forget", "membership.loss", "auc", 0.5),
                row("reference:1", "forget", "membership.loss", "auc", 0.5),
            ]
            step.result.mkdir(exist_ok=True)
            (step.result / "audit.json").write_text(json.dumps({"rows": rows}))
        (step.folder / DONE).write_text(json.dumps(facts))
    return audited


def tuned_by(recipe, root: Path, measured=None, fail="") -> tuple[Tuning, list[list[str]]]:
    """Run all rounds of a recipe; return what was found, and what was audited in each."""
    tuning = Tuning(recipe, root, {"dtype": "float32"})
    audited = []
    for round_ in tuning.rounds():
        for cell in round_.layout.cells:
            if cell.name == fail:
                tuning.failures[cell.unlearn.folder] = "failed"
        audited.append(do(round_, measured or {}, fail))
    return tuning, audited


def test_every_method_has_the_same_budget_and_begins_with_its_own(searched, tmp_path):
    tuning, audited = tuned_by(searched, tmp_path)
    # the space of small holds two besides what wga does anyway; undial has none
    assert {name: len(trials) for name, trials in tuning.found.items()} == {"npo": 4, "small": 3}
    assert audited == [
        ["npo trial 0", "small trial 0"],
        ["npo trial 1", "small trial 1"],
        ["npo trial 2", "small trial 2"],
        ["npo trial 3"],
    ]
    for trials in tuning.found.values():
        assert trials[0].options == FEW
        assert len({json.dumps(dict(t.options), sort_keys=True) for t in trials}) == len(trials)
    for trial in tuning.found["npo"][1:]:
        assert RATES["low"] <= trial.options["learning_rate"] <= RATES["high"]
        assert trial.options["beta"] in (0.1, 0.2)
    assert sorted(t.options["beta"] for t in tuning.found["small"][1:]) == [2.0, 3.0]
    assert [t.gap for t in tuning.found["npo"]] == pytest.approx([0.2] * 4)


def test_a_killed_tuning_comes_to_the_same_trials_and_does_none_twice(
    searched, tmp_path, monkeypatch
):
    whole, _ = tuned_by(searched, tmp_path / "whole")
    begun = Tuning(searched, tmp_path / "out", {"dtype": "float32"})
    rounds = begun.rounds()
    do(next(rounds), {})
    second = next(rounds)
    killed = second.waiting[0]
    do(second, {})
    (killed.folder / DONE).unlink()
    again = Tuning(searched, tmp_path / "out", {"dtype": "float32"})
    left = []
    for round_ in again.rounds():
        left.append([step.label for step in round_.waiting])
        do(round_, {})
    assert left[:2] == [[], [killed.label]]
    assert again.found == whole.found
    # all of it is found again, and nothing is asked but where nothing is remembered
    monkeypatch.setattr(
        "unlearn.apps.compare.rounds.suggest", lambda *_: pytest.fail("asked again")
    )
    with pytest.raises(pytest.fail.Exception):
        list(Tuning(searched, tmp_path / "forgetful", {}).rounds())
    third = Tuning(searched, tmp_path / "out", {"dtype": "float32"})
    assert [round_.waiting for round_ in third.rounds()] == [[]] * 4
    assert third.found == whole.found
    assert third.chosen == whole.chosen


def test_another_seed_tries_others_and_what_was_found_decides_what_comes_next(searched, tmp_path):
    one, _ = tuned_by(searched, tmp_path / "a")
    reseeded = searched.model_copy(update={"tune": searched.tune.model_copy(update={"seed": 2})})
    two, _ = tuned_by(reseeded, tmp_path / "b")
    assert two.found["npo"][1].options != one.found["npo"][1].options
    worse, _ = tuned_by(searched, tmp_path / "c", {"npo trial 0": (0.4, 0.0)})
    assert worse.found["npo"][1].options == one.found["npo"][1].options  # drawn at random
    assert worse.found["npo"][2].options != one.found["npo"][2].options


def test_what_cannot_become_best_is_not_audited(searched, tmp_path):
    tuning, audited = tuned_by(
        searched,
        tmp_path,
        {
            "npo trial 1": (0.0, 0.5),  # nearer, but it has damaged the rest
            "npo trial 2": (0.0, 0.11),  # beyond, though not surely
            "small trial 0": (0.3, 0.9),  # nothing to lose to yet
            "small trial 1": (0.3, 0.4),  # damaged less
            "small trial 2": (0.3, 0.6),
        },
    )
    assert audited[1:] == [["small trial 1"], ["npo trial 2"], ["npo trial 3"]]
    assert [t.pruned for t in tuning.found["npo"]] == [False, True, False, False]
    assert [t.pruned for t in tuning.found["small"]] == [False, False, True]
    pruned = tuning.found["npo"][1]
    assert (pruned.gap, pruned.rise) == (None, 0.5)
    assert [t.chosen for t in tuning.chosen] == [True, False, False, False, False, True, False]
    # that it is not done is no reason to begin again
    again = Tuning(searched, tmp_path, {"dtype": "float32"})
    assert not any(round_.waiting for round_ in again.rounds())


def test_a_failure_is_no_reason_to_stop_and_is_tried_again(searched, tmp_path):
    tuning, _ = tuned_by(searched, tmp_path, fail="npo trial 1")
    failed = tuning.found["npo"][1]
    assert (failed.gap, failed.rise, failed.pruned, failed.value) == (None, None, False, None)
    assert len(tuning.found["npo"]) == 4
    again = Tuning(searched, tmp_path, {"dtype": "float32"})
    assert [len(round_.waiting) for round_ in again.rounds()][:2] == [0, 2]


def trial(gap: float | None, rise: float | None, pruned: bool = False) -> TuningTrial:
    return TuningTrial("npo", {}, gap, rise, pruned=pruned)


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        # kept and far, kept and near, nearest but damaged
        ([trial(0.30, 0.01), trial(0.20, 0.09), trial(0.01, 0.11)], 1),
        # all damaged, this one least
        ([trial(0.10, 0.90), trial(0.40, 0.30), trial(0.00, 0.80)], 1),
        ([trial(0.10, 0.90), trial(None, 0.30, True)], 0),
        ([trial(None, None), trial(0.50, 2.0)], 1),
        ([trial(None, None), trial(None, None)], 0),
    ],
)
def test_the_closest_that_kept_the_rest_is_taken(trials, best):
    assert [t.chosen for t in chosen_of(trials)] == [i == best for i in range(len(trials))]


def test_hopeless_by_hand():
    kept, damaged = trial(0.4, 0.05), trial(0.0, 0.6)
    assert not hopeless(5.0, 0.0, [])
    assert not hopeless(5.0, 0.0, [trial(None, None)])
    assert hopeless(0.13, 0.01, [kept])
    assert not hopeless(0.12, 0.01, [kept])  # 0.12 − 2 · 0.01 is what is allowed
    assert hopeless(0.63, 0.01, [damaged])
    assert not hopeless(0.61, 0.01, [damaged])
    assert hopeless(0.13, 0.01, [damaged, kept])
    # where retraining itself raises it by .3, so much is no damage
    wide = [replace(each, allowed=0.4) for each in (damaged, kept)]
    assert [each.value for each in wide] == [pytest.approx(1.3), 0.4]
    assert hopeless(0.43, 0.01, wide)
    assert not hopeless(0.41, 0.01, wide)
    assert replace(trial(0.2, 0.35), allowed=0.4).value == 0.2


def test_the_chosen_options_are_reported_on(searched):
    small = {"alpha": 2.0} | FEW
    trials = [
        TuningTrial("npo", FEW, 0.1, 0.0, chosen=True),
        TuningTrial("small", small, 0.1, 0.0, True),
    ]
    final = tuned(searched, trials)
    assert final.tune is None
    assert [m.options for m in final.methods] == [FEW, small, FEW]
    assert [m.name or m.method for m in final.methods] == ["npo", "small", "undial"]
    assert not any(m.search for m in final.methods)


def test_trials_run_on_the_validation_records_and_share_the_target(searched, study):
    trials = tuning_recipe(searched, {"npo": [FEW], "small": [FEW, FEW | {"alpha": 2.0}]})
    assert trials.forget_sets == ("r6,r7",)
    assert (trials.holdout, trials.validation) == ("rows:10-11", None)
    assert [m.name for m in trials.methods] == ["npo trial 0", "small trial 0", "small trial 1"]
    assert trials.tune is None
    plain = lay_out(study(methods=METHODS, forget="r0,r1"))
    again = lay_out(study(**(trials.model_dump() | {"model": trials.model})))
    assert again.target.digest == plain.target.digest
    assert not {s.folder for s in again.references[0]} & {s.folder for s in plain.references[0]}


def test_what_a_row_does_without_being_tuned(recipe):
    made = recipe(
        methods=[
            {"method": "npo", "options": {"beta": 0.3}},
            {"method": "npo", "name": "given", "options": {"learning_rate": 7e-3}},
        ],
        finetune={"options": FEW | {"learning_rate": 1e-2}},
    )
    npo, given = (own_values(made, settings) for settings in made.methods)
    assert (npo["beta"], npo["learning_rate"]) == (0.3, pytest.approx(0.2 * 1e-2))
    assert given["learning_rate"] == 7e-3
    usual = recipe(methods=[{"method": "npo"}])
    assert own_values(usual, usual.methods[0])["learning_rate"] == pytest.approx(0.2 * 2e-4)


def test_a_plan_counts_all_trials_and_knows_those_that_were_done(searched, tmp_path):
    out = tmp_path / "out"
    tuning, cells = stages(searched, out, dtype="float32")
    assert (len(tuning.layout.cells), len(cells.layout.cells)) == (7, 3)
    assert not tuning.done
    assert not out.exists()
    tuned_by(searched, out, {"npo trial 2": (0.01, 0.0)})
    tuning, cells = stages(searched, out, dtype="float32")
    assert tuning.done
    assert all(cell.unlearn.done for cell in tuning.layout.cells)
    (npo,) = [c for c in tuning.layout.cells if c.name == "npo trial 2"]
    assert npo.unlearn.done
    chosen = next(c for c in cells.layout.cells if c.name == "npo")
    assert chosen.unlearn.settings["options"] == npo.unlearn.settings["options"] != FEW


def test_trials_that_are_not_known_yet_are_to_be_done(searched, tmp_path, capfd):
    """Before any, after the first round, and amid the second: what the table says is the sum."""
    out, path = tmp_path / "out", tmp_path / "mine.yaml"
    path.write_text(searched.model_dump_json())
    begun = Tuning(searched, out, {"dtype": "float32"})
    rounds = begun.rounds()
    each = 2 * 2 * 2  # two steps of two records, each with one to keep
    for done, change in enumerate(
        (lambda: None, lambda: do(next(rounds), {}), lambda: do(next(rounds), {}, "npo trial 1"))
    ):
        change()
        stage, _ = stages(searched, out, dtype="float32")
        found = costs(stage.study, stage.layout, counts(stage.study))
        left = [cell for cell in stage.layout.cells if not cell.unlearn.done]
        finished = (0, 2, 3)[done]
        assert len(left) == 7 - finished
        training = [cell.unlearn for cell in stage.layout.cells]
        training += [stage.layout.target, *stage.layout.references[0]]
        assert len({step.folder for step in training}) == len(training)
        assert found.total.trained == sum(
            found.work[step.folder].trained for step in training if not step.done
        )
        assert sum(found.work[cell.unlearn.folder].trained for cell in left) == pytest.approx(
            len(left) * each * counts(stage.study).tokens
        )
        audits = [cell.audit.folder for cell in left]
        assert len(set(audits) & set(found.work)) == len(left)
        assert (
            run(["compare", str(path), "--output", str(out), "--dtype", "float32", "--plan"]) == 0
        )
        shown = capfd.readouterr().out.partition("to do:")[0]
        rows = [line for line in shown.splitlines() if " trial " in line]
        assert [row.split()[-2] for row in rows].count("1") == finished


def test_what_is_reported_is_not_tuned_on(recipe):
    made = recipe(methods=METHODS, tune=TUNE, forget="r0,r1", **UNSEEN)
    pool = Pool.sketch(made)
    check_tuning(made, pool)
    with pytest.raises(SelectionError, match="shares 1 record"):
        check_tuning(recipe(methods=METHODS, tune=TUNE, forget=["r0", "r5,r6"], **UNSEEN), pool)
    with pytest.raises(OptionError, match="nothing says to tune"):
        check_tuning(recipe(methods=METHODS), pool)
    with pytest.raises(OptionError, match="no method has a search space"):
        check_tuning(recipe(methods=[{"method": "npo"}], tune=TUNE, **UNSEEN), pool)
    for search, problem in (
        ({"beta": []}, "npo: beta: no value"),
        ({"betta": [1.0]}, "did you mean 'beta'"),
        ({"learning_rate": {"low": -1.0, "high": 1.0}}, "greater than 0"),
    ):
        methods = [{"method": "npo", "search": search}]
        wrong = recipe(methods=methods, tune=TUNE, forget="r0,r1", **UNSEEN)
        with pytest.raises(OptionError, match=problem):
            check_tuning(wrong, pool)


def test_nothing_is_tuned_by_what_it_is_judged_by(recipe, tmp_path):
    made = recipe(methods=METHODS, tune=TUNE, forget="r0,r1")
    with pytest.raises(OptionError, match="write validation: SELECTOR"):
        check_tuning(made, Pool.sketch(made))
    with pytest.raises(OptionError, match="tuned by the holdout .rows:8-11., which judges them"):
        stages(made, tmp_path / "out")  # nor planned
    stages(recipe(methods=METHODS, tune=TUNE, forget="r0,r1", **UNSEEN), tmp_path / "out")


@pytest.mark.slow
def test_a_tuned_comparison_reports_what_was_found(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    methods = [
        {"method": "grad_ascent", "options": FEW, "search": {"learning_rate": [5.0]}},
        {"method": "undial", "options": FEW, "search": {"learning_rate": RATES}},
        {"method": "npo", "options": FEW},
    ]
    tune = {"trials": 3, "forget": "r6,r7"}
    mine = recipe(methods=methods, tune=tune, forget="r0,r1", seeds=(0,), **UNSEEN)
    out = tmp_path / "out"
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(json.loads(mine.model_dump_json())))
    words = ["compare", str(path), "--output", str(out), "--dtype", "float32"]
    unlearn = work._KINDS["unlearn"]

    def harmful(step: Any, *rest: Any) -> Any:
        # an untrained model's loss has little room to rise: say that it rose
        worse = step.settings["options"].get("learning_rate") == 5.0
        return unlearn(step, *rest) | ({"rise": {"mean": 1.0, "error": 0.0}} if worse else {})

    monkeypatch.setitem(work._KINDS, "unlearn", harmful)
    assert run(words) == 0
    shown = capfd.readouterr().out
    assert "pruned" in shown
    content = json.loads((out / "comparison.json").read_text())
    found = [(t["method"], t["pruned"]) for t in content["tuning"]]
    assert found == [("grad_ascent", False), ("grad_ascent", True), *[("undial", False)] * 3]
    assert content["recipe"]["tune"]["trials"] == 3  # as it was given
    for name in ("grad_ascent", "undial"):
        best = next(t for t in content["tuning"] if t["method"] == name and t["chosen"])
        assert content["options"][name] == best["options"]
    page = (out / "report.html").read_text()
    assert "How they were tuned" in page
    assert "2, 1 of them pruned" in page
    # what the sample told is what an audit of all records would have
    folders = [
        folder
        for folder in (out / "cells").glob("undial-*")
        if json.loads((folder / "settings.json").read_text())["forget"] == [["r6,r7", None]]
    ]
    facts = [json.loads((folder / "done.json").read_text()) for folder in folders]
    rises = sorted(f["rise"]["mean"] for f in facts)
    assert rises == pytest.approx(
        sorted(t["rise"] for t in content["tuning"] if t["method"] == "undial"), abs=1e-4
    )
    assert all(f["rise"]["error"] == 0 for f in facts)  # it holds all six
    seen: list[str] = []
    monkeypatch.setattr(work, "do", lambda step, *_: seen.append(step.label))
    again = compare(mine, out, dtype="float32")
    assert (again.steps, seen) == (0, [])
    # fewer trials: all is there, and what is told is of these
    fewer = mine.model_copy(update={"tune": mine.tune.model_copy(update={"trials": 2})})
    told = compare(fewer, out, dtype="float32")
    assert {(t.method, t.trials) for t in told.tuning} == {("grad_ascent", 2), ("undial", 2)}
    again = compare(mine, out, dtype="float32")
    assert [(t.method, t.trials, t.pruned) for t in again.tuning] == [
        ("grad_ascent", 2, 1),
        ("undial", 3, 0),
    ]
    assert [r[0] for r in again.rows] == ["before", "references", "grad_ascent", "undial", "npo"]
