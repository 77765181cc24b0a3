"""Where records come from, and which of them a recipe means."""

from __future__ import annotations

import pytest

from unlearn.apps.compare.data import Pool, is_hub, model_folder
from unlearn.apps.demo import base_path
from unlearn.errors import OptionError, SelectionError


def test_a_sketch_selects_as_the_records_do(recipe, data):
    made = recipe(data={"first": str(data), "demo": "demo:2"})
    pools = Pool.load(made), Pool.sketch(made)
    assert pools[0].parts == pools[1].parts == {"first": 12, "demo": 10}
    for selector in ("rows:3-5,7", "r1,r2", "part:demo", "part:first[2-3],demo[0-1]"):
        found = [pool.positions(selector) for pool in pools]
        assert found[0] == found[1]
    assert pools[0].positions("part:first[2-3],demo[0-1]") == [2, 3, 12, 13]
    assert pools[0].select("part:demo").ids == pools[0].records.ids[12:]
    assert list(pools[1].records.ids) == pools[0].records.ids


@pytest.mark.parametrize(
    ("selector", "problem"),
    [
        ("part:secnod", "did you mean 'second'"),
        ("part:first[3-1]", "rows 0-11"),
        ("part:first[0-12]", "rows 0-11"),
        ("part:first[1]", "write part:NAME"),
        ("part:", "write part:NAME"),
    ],
)
def test_what_is_not_there_is_named(recipe, data, selector, problem):
    pool = Pool.sketch(recipe(data={"first": str(data), "second": "demo:1"}))
    with pytest.raises(SelectionError, match=problem.replace("[", r"\[")):
        pool.positions(selector)


def test_names_of_the_demo_and_of_the_hub(recipe, data):
    assert model_folder("demo") == str(base_path())
    assert model_folder("owner/model") == "owner/model"
    assert is_hub("owner/name#config:split")
    assert is_hub("owner/name")
    assert not any(map(is_hub, ("demo:3", str(data), "./not/there", "missing.jsonl")))
    with pytest.raises(OptionError, match="demo:PEOPLE"):
        Pool.sketch(recipe(data="demo:many"))
