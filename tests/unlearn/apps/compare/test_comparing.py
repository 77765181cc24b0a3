"""A whole comparison on a tiny model: what is written, what fails, what is found again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from unlearn.apps.cli import run
from unlearn.apps.compare.comparing import compare
from unlearn.apps.compare.execution import work
from unlearn.apps.compare.execution.runner import Workers
from unlearn.apps.compare.results import Show
from unlearn.errors import OutputError, SelectionError, UnlearnError


@pytest.fixture
def file(recipe, tmp_path: Path) -> Path:
    """The recipe as a file."""
    path = tmp_path / "mine.yaml"
    content = json.loads(recipe(seeds=(0,)).model_dump_json())
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_a_comparison_from_its_recipe_to_its_page(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = ["compare", str(file), "--output", str(out), "--dtype", "float32"]
    assert run(words) == 1
    shown = " ".join(capfd.readouterr().out.split())
    assert "failed: none to give, seed 0, set 0: " in shown
    content = json.loads((out / "comparison.json").read_text())
    cells = {(c["method"], c["forget"]): c for c in content["cells"]}
    assert set(cells) == {(m, f) for m in ("npo", "none to give") for f in range(2)}
    for (method, _), cell in cells.items():
        if method == "npo":
            assert not cell["error"]
            assert (out / cell["link"]).is_file()
            numbers = cell["numbers"]
            assert numbers["tokens_share"] == pytest.approx(
                numbers["tokens"] / content["price"]["tokens"], rel=0.2
            )
            assert {"gap", "gap_sd", "auc", "rise", "forget_recall", "wall"} <= set(numbers)
            # two records of two people: nothing can be shown, and it is said what would
            assert cell["ruling"]["outcome"] in ("FAIL", "INCONCLUSIVE")
            assert cell["ruling"]["reasons"]
            assert not any("not audited" in text for text in cell["ruling"]["reasons"])
        else:
            assert "alternates" in cell["error"]
            assert "gap" not in cell["numbers"]
    assert [line["name"] for line in content["lines"]][:2] == ["before", "references"]
    assert len(content["references"]) == 4
    assert all(one["ruling"]["outcome"] for one in content["references"] + content["before"])
    assert content["table"]["heads"][:2] == ["method", "verdicts"]
    npo = next(line for line in content["lines"] if line["name"] == "npo")
    values = [cells["npo", f]["numbers"]["gap"] for f in range(2)]
    assert npo["mean"]["gap"] == pytest.approx(sum(values) / 2)
    page = (out / "report.html").read_text()
    assert "none to give" in page
    assert 'id="method-npo"' in page
    assert "looked at the very unseen records that they are judged by" in page
    assert "It is 13." not in page
    table = pq.read_table(out / "records.parquet")
    assert table.num_rows == 2 * 12  # those of both sets' one cell that went well
    assert set(table["split"].to_pylist()) == {"forget", "retain", "holdout"}
    assert all(name.startswith("keyed:") for name in table["id"].to_pylist())
    assert "keyed:" in page
    found = {
        json.loads((folder / "settings.json").read_text())["forget"][0][0]: folder
        for folder in (out / "cells").glob("npo-seed0-*")
    }
    assert set(found) == {"r0,r1", "r2,r3"}
    folder = found["r2,r3"]
    settings = json.loads((folder / "settings.json").read_text())
    facts = json.loads((folder / "done.json").read_text())
    assert facts["options"]["beta"] == 0.1  # whatever is in effect, the method's own too
    assert "thread" in facts["place"]
    assert settings["data"]["data.data"].startswith("sha256:")
    assert settings["options"] == {"max_steps": 2, "batch_size": 2}
    # the same command again tries what failed, and nothing else
    seen = watch(monkeypatch)
    assert run(words) == 1
    assert [(kind, label) for kind, label in seen if kind != "unlearn"] == []
    assert len(seen) == 2
    # a killed step's folder is as it was: it is done again, and what depends on it is not there
    (folder / "done.json").unlink()
    shutil.rmtree(folder / "adapter")
    (folder / ".adapter.partial-1").mkdir()
    seen.clear()
    assert run([*words, "methods=[{method: npo, options: {max_steps: 2, batch_size: 2}}]"]) == 0
    assert seen == [("unlearn", "npo, seed 0, set 1")]
    assert not (folder / ".adapter.partial-1").exists()


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Note every step that is really done."""
    seen: list[tuple[str, str]] = []
    kinds: dict[str, Any] = dict(work._KINDS)

    def noted(kind: str) -> Any:
        def do(step: Any, *rest: Any) -> Any:
            seen.append((kind, step.label))
            return kinds[kind](step, *rest)

        return do

    monkeypatch.setattr(work, "_KINDS", {kind: noted(kind) for kind in kinds})
    return seen


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_a_finished_one_is_found(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"max_steps": 2, "batch_size": 2}
    mine = recipe(
        methods=[{"method": "npo", "options": few}],
        forget="r0,r1",
        seeds=(0,),
        robustness=["int8"],
    )
    out = tmp_path / "out"
    seen = watch(monkeypatch)
    real = work._KINDS["unlearn"]

    def killed(step: Any, *rest: Any) -> Any:
        (step.folder / ".adapter.partial-1").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(work._KINDS, "unlearn", killed)
        with pytest.raises(KeyboardInterrupt):
            compare(mine, out, dtype="float32")
    done = [kind for kind, _ in seen]
    assert done == ["target", "reference", "reference", "audit", "trial", "trial"]
    seen.clear()
    assert work._KINDS["unlearn"] is real
    found = compare(mine, out, dtype="float32")
    assert [kind for kind, _ in seen] == ["unlearn", "audit", "trial"]
    assert found.steps == 3
    assert not list(out.rglob(".adapter.partial-*"))
    assert "changed" in found.heads
    content = json.loads((out / "comparison.json").read_text())
    assert content["cells"][0]["numbers"]["robust"] >= 0
    # nothing is left to do: read, without torch, what was written
    seen.clear()
    again = compare(mine, out, dtype="float32")
    assert (again.steps, again.rows, seen) == (0, found.rows, [])
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(json.loads(mine.model_dump_json())))
    code = f"""
import sys
from unlearn.apps.cli import run
assert run(["compare", {str(path)!r}, "--output", {str(out)!r}, "--dtype", "float32"]) == 0
heavy = {{"torch", "transformers", "datasets", "scipy", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "nothing had to be run" in ended.stdout
    # text is shown and hidden again without a step
    assert "It is 13." not in (out / "report.html").read_text()
    assert compare(mine, out, show=Show(text=True), dtype="float32").steps == 0
    assert "It is 13." in (out / "report.html").read_text()
    assert "keyed:" not in (out / "report.html").read_text()  # text comes with its ids
    assert "keyed:" in pq.read_table(out / "records.parquet")["id"][0].as_py()
    assert compare(mine, out, show=Show(ids=True), dtype="float32").steps == 0
    assert "r0" in pq.read_table(out / "records.parquet")["id"].to_pylist()
    assert compare(mine, out, dtype="float32").steps == 0
    assert "It is 13." not in (out / "report.html").read_text()
    assert seen == []
    # a row that is the same under another name takes nothing; a new one alone is done
    named = mine.methods[0].model_copy(update={"name": "npo twice"})
    both = mine.model_copy(update={"methods": [*mine.methods, named]})
    assert [row[0] for row in compare(both, out, dtype="float32").rows][2:] == ["npo", "npo twice"]
    assert seen == []
    other = named.model_copy(update={"options": {**few, "beta": 0.5}})
    compare(mine.model_copy(update={"methods": [*mine.methods, other]}), out, dtype="float32")
    assert [kind for kind, _ in seen] == ["unlearn", "audit", "trial"]


def test_wrong_input_is_refused_before_anything_is_trained(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch)
    out = tmp_path / "out"
    for changes, problem in (
        ({"forget": "r0,r9"}, "train does not hold"),
        ({"forget": "rows:0-7"}, "all records of train"),
        ({"holdout": "r99"}, "no record 'r99'"),
        ({"holdout": "rows:7-11"}, "holdout 'rows:7-11' shares 1 record"),
        ({"validation": "r0,r8", "holdout": "rows:9-11"}, "validation 'r0,r8' shares 1 record"),
        ({"validation": "rows:8-9"}, "shares 2 record.s. with the holdout"),
        ({"robustness": ["int9"]}, "int8"),
        ({"policy": "standart"}, "did you mean 'standard'"),
        ({"methods": [{"method": "npo", "options": {"betta": 1}}]}, "did you mean 'beta'"),
    ):
        with pytest.raises(UnlearnError, match=problem):
            compare(recipe(**changes), out)
    assert not seen
    assert not out.exists()
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("something else")
    with pytest.raises(OutputError, match="--overwrite"):
        compare(recipe(), taken)


def test_one_text_under_two_ids_is_refused_before_anything_is_trained(
    recipe, data: Path, study
) -> None:
    texts = [json.loads(line) for line in data.read_text().splitlines()]
    copied = [{**texts[i], "id": f"copy of r{i}"} for i in (0, 3, 9)]
    data.write_text("".join(json.dumps(row) + "\n" for row in texts + copied))
    both = {"train": "rows:0-7,12"}  # r0 and its copy
    for changes, problem in (
        ({"holdout": "r9,copy of r0"}, "holdout .* 1 record.* first 'copy of r0' that of 'r0'"),
        ({"holdout": "r9", "validation": "r8,copy of r3"}, "validation .* 'copy of r3' that"),
        ({**both, "forget": ["r3,r4", "r0,r1"]}, "forget 'r0,r1'.* 'r0' that of 'copy of r0'"),
    ):
        with pytest.raises(SelectionError, match=problem):
            work.check(study(**changes))
    # copies that all go, all stay or are never seen do no harm
    work.check(study(**both, forget="r0,copy of r0", holdout="r9,copy of r9"))
    work.check(study(**both, forget="r3,r4", holdout="r9", validation="r8,copy of r9"))


@pytest.mark.slow
def test_several_processes_find_what_one_finds(recipe, tmp_path: Path) -> None:
    few = {"max_steps": 2, "batch_size": 2}
    methods = [{"method": "npo", "options": few}]
    mine = recipe(methods=methods, forget="r0,r1", seeds=(0,), references=1)
    one = compare(mine, tmp_path / "one", dtype="float32")
    two = compare(mine, tmp_path / "two", workers=Workers(jobs=2), dtype="float32")
    timed = {"time", "memory"}
    for a, b in zip(one.rows, two.rows, strict=True):
        for head, x, y in zip(one.heads, a, b, strict=True):
            assert head in timed or x == y
