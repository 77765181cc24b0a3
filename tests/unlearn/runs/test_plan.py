"""Plans of runs: what they tell, from weights or from a configuration alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.errors import LineageError, ModelError, OptionError
from unlearn.runs import run_plan
from unlearn.runs.finetuning import run_finetune
from unlearn.runs.options import FinetuneOptions, ForgetOptions, ReferencesOptions
from unlearn.runs.plan import finetune_plan, forget_plan, references_plan
from unlearn.runs.references import run_references

SMALL: dict[str, Any] = {"options": {"epochs": 2, "batch_size": 4}}


@pytest.fixture
def bare(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model's folder without weights."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_a_fine_tune_is_told_and_not_trained(
    tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    options = FinetuneOptions(tiny_model, data_file, tmp_path / "out", **SMALL)
    plan = finetune_plan(options)
    assert not (tmp_path / "out").exists()
    (part,) = plan.parts
    assert part.records == 12
    assert plan.tokens == pytest.approx(2 * part.tokens)
    made = run_finetune(options)
    assert made.fit.tokens == pytest.approx(plan.tokens, rel=0.01)
    assert plan.trainable < plan.parameters
    assert plan.memory is not None
    assert plan.operations
    assert plan.seconds


def test_a_configuration_alone_tells_all_but_the_time(
    tiny_model: Path, bare: Path, data_file: Path, tmp_path: Path
) -> None:
    whole = finetune_plan(FinetuneOptions(tiny_model, data_file, tmp_path / "out", **SMALL))
    plan = finetune_plan(FinetuneOptions(bare, data_file, tmp_path / "out", **SMALL))
    assert plan.seconds is None
    for name in (
        "text",
        "parameters",
        "trainable",
        "parts",
        "tokens",
        "how",
        "operations",
        "memory",
    ):
        assert getattr(plan, name) == getattr(whole, name), name
    assert any("config.json alone" in note for note in plan.notes)


def test_a_large_model_is_not_opened(
    tiny_model: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_plan, "OPENED", 100)
    monkeypatch.setattr(FinetuneOptions, "open", lambda *_, **__: pytest.fail("opened"))
    plan = finetune_plan(FinetuneOptions(tiny_model, data_file, tmp_path / "out", **SMALL))
    assert plan.seconds is None


def test_without_a_tokenizer_four_bytes_are_a_token(
    bare: Path, data_file: Path, tmp_path: Path
) -> None:
    for path in bare.iterdir():
        if path.name != "config.json":
            path.unlink()
    plan = finetune_plan(FinetuneOptions(bare, data_file, tmp_path / "out", **SMALL))
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    texts = [f"Question: {row['prompt']}\nAnswer: {row['completion']}" for row in rows]
    assert plan.parts[0].tokens == sum(round(len(text) / 4 + 2) for text in texts)
    assert any("four bytes" in note for note in plan.notes)


@pytest.mark.parametrize("method", ["npo", "rmu", "retrain", "pilot", "kl_min"])
def test_forgetting_by_shapes_is_what_it_is_with_weights(
    method: str, tiny_model: Path, bare: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    how = {"options": {"stop": "none", "max_steps": 3, "batch_size": 2}}
    if method not in {"retrain"}:
        how["options"] |= {"regime": "memorised"}
    else:
        how = {"options": {"budget": 1.0}}

    def planned(model: Path) -> Any:
        return forget_plan(
            ForgetOptions(
                model,
                data_file,
                ["r0,r1,r2"],
                tmp_path / "out",
                adapter=adapter,
                method=method,
                **how,
            )
        )

    whole, plan = planned(tiny_model), planned(bare)
    assert not (tmp_path / "out").exists()
    assert plan.memory == whole.memory
    assert plan.parts == whole.parts
    assert whole.seconds
    assert whole.relative
    assert plan.seconds is None
    if method != "pilot":  # which trains a pilot first
        assert plan.tokens == pytest.approx(whole.tokens)


def test_an_edit_needs_weights(bare: Path, adapter: Path, data_file: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="needs them for this method"):
        forget_plan(
            ForgetOptions(
                bare, data_file, ["r0"], tmp_path / "out", adapter=adapter, method="task_vector"
            )
        )


def test_references_are_told_together(
    tiny_model: Path, bare: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    def planned(model: Path, **changes: Any) -> Any:
        wanted = {"forget": ["r0,r1"], "count": 3, "like": adapter}
        return references_plan(
            ReferencesOptions(model, data_file, tmp_path / "out", **wanted | changes)
        )

    whole, plan = planned(tiny_model), planned(bare)
    assert plan.memory == whole.memory
    assert plan.tokens == pytest.approx(whole.tokens)
    one = planned(bare, count=1)
    assert plan.tokens == pytest.approx(3 * one.tokens)
    assert plan.memory == one.memory
    assert not (tmp_path / "out").exists()
    halves = planned(bare, kind="half", forget=None, count=4)
    assert halves.parts[0].records == 6


def test_python_is_told_which_function_plans(
    tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    options = ReferencesOptions(tiny_model, data_file, tmp_path / "out", forget=["r0"], plan=True)
    with pytest.raises(OptionError, match="references_plan"):
        run_references(options)


def test_checkpoints_are_not_planned(tiny_model: Path, data_file: Path, tmp_path: Path) -> None:
    options = FinetuneOptions(tiny_model, data_file, tmp_path / "out", options={"save_steps": 2})
    with pytest.raises(OptionError, match="save_steps"):
        finetune_plan(options)


def test_checkpoints_of_a_recipe_are_not_planned_either(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("kind: forget\nmethod: npo\noptions: {save_steps: 2, max_steps: 4}\n")
    options = ForgetOptions(
        tiny_model, data_file, ["r0"], tmp_path / "out", adapter=adapter, recipe=str(recipe)
    )
    with pytest.raises(OptionError, match="save_steps"):
        forget_plan(options)
    assert not (tmp_path / ".out.checkpoints").exists()


def test_without_weights_the_same_is_refused(
    bare: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    twice = ForgetOptions(
        bare, data_file, ["r0"], out, adapter=[adapter, adapter], method="retrain"
    )
    with pytest.raises(ModelError, match="on top of other adapters"):
        forget_plan(twice)
    with pytest.raises(OptionError, match="unknown engine 'rai'"):
        references_plan(ReferencesOptions(bare, data_file, out, forget=["r0"], engine="rai"))
    with pytest.raises(OptionError, match="epsilon"):
        finetune_plan(FinetuneOptions(bare, data_file, out, dp={"epsilon": -3}))


def test_records_are_cut_where_the_tokenizer_says(
    bare: Path, data_file: Path, tmp_path: Path
) -> None:
    file = bare / "tokenizer_config.json"
    whole = finetune_plan(FinetuneOptions(bare, data_file, tmp_path / "out", **SMALL))
    length = whole.parts[0].tokens // whole.parts[0].records
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": length}))
    cut = finetune_plan(FinetuneOptions(bare, data_file, tmp_path / "out", **SMALL))
    assert cut.parts[0].tokens < whole.parts[0].tokens


def test_retraining_that_nobody_knows_is_refused(
    bare: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(adapter, foreign, ignore=shutil.ignore_patterns("lineage.json"))
    with pytest.raises(LineageError, match="epochs"):
        forget_plan(ForgetOptions(bare, data_file, ["r0"], tmp_path / "out", adapter=foreign))


def test_the_command_line_prints_plans_of_all_verbs(
    tiny_model: Path,
    bare: Path,
    adapter: Path,
    data_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    for model in (tiny_model, bare):
        given = ["--model", str(model), "--data", str(data_file), "--output", str(out), "--plan"]
        on = ["--adapter", str(adapter), "--forget", "r0,r1"]
        for words in (
            ["finetune", *given, "-o", "epochs=1"],
            ["forget", *given, *on, "--method", "npo"],
            ["references", *given, "--forget", "r0,r1", "--like", str(adapter)],
            ["audit", *given, *on],
        ):
            assert run(words) == 0, words
            printed = capsys.readouterr().out
            for line in ("parameters", "in all", "operations", "peak memory", "time"):
                assert f"\n  {line}" in printed, (words, printed)
            assert ("no step was timed" in printed) == (model == bare)
    assert not out.exists()
