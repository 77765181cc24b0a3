"""Files that a recipe names are looked up from here and beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlearn.apps.compare.data import Pool, model_folder
from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.apps.demo import base_path
from unlearn.errors import OptionError
from unlearn.model.folders import resolve_folder
from unlearn.recipe import ForgetRecipe, load_recipe

RECIPE = """
kind: compare
model: {model}
data: known.jsonl
train: rows:0-3
forget: "@ids.txt"
holdout: unseen.jsonl
methods: [{{method: npo}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, count in (("known", 4), ("unseen", 2)):
        rows = [{"id": f"{name}{i}", "text": f"{name} text {i}"} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "ids.txt").write_text("known1\n")
    (folder / "r.yaml").write_text(RECIPE.format(model="demo"))
    return folder


def test_data_selectors_and_holdout_lie_beside_the_recipe(folder: Path) -> None:
    recipe = load_recipe(str(folder / "r.yaml"), CompareRecipe)
    pool = Pool.load(recipe)
    assert pool.positions(recipe.holdout) == [4, 5]
    assert pool.select(recipe.forget_sets[0]).ids == ["known1"]
    assert pool.positions(recipe.train) == [0, 1, 2, 3]


def test_files_here_come_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    recipe = load_recipe("r.yaml", CompareRecipe)
    assert recipe.data == {"data": "known.jsonl", "holdout-file": "unseen.jsonl"}


@pytest.mark.parametrize("name", ["known.jsonl", "unseen.jsonl", "ids.txt"])
def test_both_places_are_named_where_a_file_is_in_neither(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(OptionError) as caught:
        load_recipe(str(folder / "r.yaml"), CompareRecipe)
    assert name in str(caught.value)
    assert str(folder) in str(caught.value)
    assert str(Path.cwd()) in str(caught.value)


def test_options_of_a_method_may_name_files(folder: Path) -> None:
    text = "kind: forget\nmethod: dpo\noptions: {alternates: known.jsonl, schedule: linear}\n"
    (folder / "f.yaml").write_text(text)
    recipe = load_recipe(str(folder / "f.yaml"), ForgetRecipe)
    assert recipe.options == {"alternates": str(folder / "known.jsonl"), "schedule": "linear"}


def test_demo_is_the_embedded_model_unless_a_folder_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("demo", "model") == base_path()
    assert model_folder("demo") == str(base_path())
    (tmp_path / "demo").mkdir()
    assert resolve_folder("demo", "model") == Path("demo")
    assert model_folder("demo") == "demo"
