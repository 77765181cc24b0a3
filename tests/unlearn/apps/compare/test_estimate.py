"""What a plan says, and that it says it without loading anything."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from unlearn.apps.cli import run
from unlearn.apps.compare.data import Pool
from unlearn.apps.compare.estimate import Work, costs, counts, parameters, training_tokens
from unlearn.apps.compare.layout import lay_out
from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.apps.compare.shards import METHOD, check_shards, method_of
from unlearn.apps.compare.study import Study
from unlearn.apps.compare.tuning.trials import check_tuning, own_values
from unlearn.errors import OptionError
from unlearn.methods.registry import METHODS, get_method, resolve
from unlearn.recipe import load_recipe, recipe_names, recipe_path
from unlearn.training.options import TrainingOptions

OURS = [name for name in recipe_names() if name.startswith("compare/")]
GIVEN = {
    name: ["model=demo", "data=demo:800"] for name in ("compare/tofu_small", "compare/smollm2")
} | {
    "compare/backdoor": [
        "data=demo:800",
        "forget=rows:0-19",
        "trigger=manifest",
        "holdout=rows:200-259",
        "validation=rows:260-299",
    ]
}


def test_counts_are_of_the_records_themselves(study, tiny_model):
    from transformers import AutoTokenizer

    found = counts(study())
    assert (found.train, found.forget, found.holdout) == (8, (2, 2), 4)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = [
        f"Question: What is the number of {i}?\nAnswer: It is {(i * 7919 + 13) % 10007}."
        for i in range(8)
    ]
    # an end token comes on top
    assert found.tokens == sum(len(tokenizer(t).input_ids) + 1 for t in texts) / 8


def test_parameters_are_read_off_the_headers(study, tiny_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert parameters(study()) == sum(p.numel() for p in model.parameters())


def plain(name, taught=30, **options):
    """Tokens of a method for 20 records to forget and 80 to keep, of 10 tokens each."""
    how = TrainingOptions(epochs=taught, batch_size=16)
    return training_tokens(get_method(name), options, how, 20, 80, 10.0)


def test_tokens_by_hand():
    # 36 steps of 8 are more than 10 epochs of 20; a retain record for each
    assert plain("npo") == 36 * 8 * 2 * 10
    assert plain("npo", retain_loss="none") == 36 * 8 * 10
    assert plain("npo", epochs=2, batch_size=4, retain_ratio=3) == 10 * 4 * 4 * 10
    assert plain("npo", max_steps=5) == 5 * 8 * 2 * 10
    assert plain("grad_ascent", epochs=20) == 50 * 8 * 10
    assert plain("idk_dpo", max_steps=1) == 8 * 3 * 10
    # two epochs over the retained records first, then 40 steps of 4 with 4 retained each
    assert plain("pilot") == (2 * 80 + 40 * 4 * 5) * 10
    # as the original training, on the retained records
    assert plain("retrain") == 150 * 16 * 10
    assert plain("retrain", taught=3) == 15 * 16 * 10
    assert plain("retrain", epochs=1) == 5 * 16 * 10
    assert plain("retrain", budget=0.25) == plain("retrain") / 4
    assert plain("retrain", budget="auto") == plain("retrain")  # at most


def test_steps_that_are_not_asked_for_cost_half_of_retraining_at_most():
    # 15 steps of 16 rows, of which half are 120: 7 steps of 8 and as many retained records
    assert plain("npo", taught=3) == 7 * 8 * 2 * 10
    assert plain("npo", taught=3, epochs=10) == 25 * 8 * 2 * 10
    assert plain("npo", taught=3, max_steps=30) == 30 * 8 * 2 * 10
    # two epochs over the retained records are more already
    assert plain("pilot", taught=3) == (2 * 80 + 4 * 5) * 10


def test_operations():
    assert Work(trained=10, scored=100).operations(7) == 7 * (4 * 10 + 2 * 100)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_planned(name):
    assert plain(name, epochs=1) > 0


@pytest.mark.parametrize("name", OURS)
def test_ready_recipes_can_be_planned_and_their_options_exist(name, tmp_path):
    recipe = load_recipe(name, CompareRecipe, GIVEN.get(name, []))
    study = Study.of(recipe, tmp_path / "none", {})
    layout = lay_out(study)
    found = costs(study, layout, counts(study))
    assert len(layout.cells) == len(recipe.methods) * len(recipe.seeds) * len(recipe.forget_sets)
    assert set(found.work) == {step.folder for step in layout.steps}
    assert found.seconds
    for settings in recipe.methods:
        if settings.method == METHOD:
            check_shards(settings.options, further=False)
        else:
            resolve(get_method(settings.method), settings.options)
    if recipe.tune:  # only here are the records at hand that search spaces are checked beside
        parts = recipe.data if isinstance(recipe.data, dict) else None
        data = dict.fromkeys(parts, "demo:800") if parts else "demo:800"
        small = {"model": "demo", "data": data}
        check_tuning(recipe, Pool.sketch(recipe.model_copy(update=small)))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", OURS)
def test_search_spaces_are_as_wide_for_one_method_as_for_another(name):
    recipe = load_recipe(name, CompareRecipe, GIVEN.get(name, []))
    for settings in recipe.methods:
        exact = method_of(settings.method).kind == "exact"
        assert bool(settings.search) == (recipe.tune is not None and not exact)
        own = own_values(recipe, settings)
        for key, space in settings.search.items():
            ends = space["low"] / own[key], space["high"] / own[key]
            assert ends == pytest.approx((0.3, 3), rel=0.15 if key == "strength" else 0.01)
            assert space["log"]


def test_the_demo_knows_each_person_from_one_side_alone():
    recipe = load_recipe("compare/demo", CompareRecipe)
    pool = Pool.sketch(recipe)
    sides = [
        {pool.records[i].subject for i in pool.positions(selector)}
        for selector in (recipe.train, recipe.holdout, recipe.looked_at)
    ]
    assert [len(people) for people in sides] == [40, 10, 10]
    assert len(set.union(*sides)) == 60


def test_a_row_that_is_another_under_a_second_name_takes_nothing(recipe, tmp_path, capfd):
    (npo, _) = recipe().methods
    made = recipe(methods=[npo, npo.model_copy(update={"name": "npo twice"})])
    path = tmp_path / "mine.yaml"
    path.write_text(made.model_dump_json())
    assert run(["compare", str(path), "--output", str(tmp_path / "out"), "--plan"]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines() if "npo" in line]
    assert [(row[-3], row[-1]) for row in rows] == [("4", rows[0][-1]), ("0", "0")]


def test_short_names_find_a_recipe_where_only_one_has_it():
    assert recipe_path("tofu_small") == recipe_path("compare/tofu_small")
    with pytest.raises(OptionError, match="did you mean"):
        recipe_path("tofu_smal")


def test_sizes_of_what_is_on_the_hub_come_from_the_recipe(study):
    far = {"a": "owner/name#x:train", "b": "owner/name#x:test"}
    made = study(
        data=far,
        train="part:a",
        forget="part:a[0-9]",
        holdout="part:b",
        expect={"records": {"a": 50, "b": 7}},
    )
    found = counts(made)
    assert (found.train, found.forget, found.holdout) == (50, (10,), 7)
    with pytest.raises(OptionError, match="expect"):
        counts(study(data=far, train="part:a", forget="part:a[0-9]", holdout="part:b"))


def test_a_plan_imports_nothing_heavy(data, tmp_path):
    code = f"""
import sys
from unlearn.apps.cli import run
words = ["compare", "tofu_small", "model=demo", "data={data}", "train=rows:0-7"]
words += ["forget=r0,r1", "holdout=rows:8-9", "validation=rows:10-11", "tune.forget=r6", "--plan"]
words += ["--output", {str(tmp_path / "o")!r}]
assert run(words) == 0
assert run(["compare", "muse", "--plan"]) == 0
import json
print("loaded:" + json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown, _, loaded = done.stdout.partition("loaded:")
    assert "tuning: 56 cells: 56 methods × 1 seed × 1 forget set;" in shown
    assert "45 cells: 15 methods × 3 seeds × 1 forget set;" in shown
    assert not {"torch", "transformers", "datasets", "scipy", "optuna"} & set(json.loads(loaded))
    assert not (tmp_path / "o").exists()
