"""Replays of what began with another adapter, of planted canaries, and of a found-out budget."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.canaries.pairs import beside
from unlearn.errors import LineageError
from unlearn.provenance.lineage import Lineage
from unlearn.runs.finetuning import finetune
from unlearn.runs.forgetting import forget
from unlearn_eval.replay.result import Replay
from unlearn_eval.replay.run import replay

from .conftest import FORGOTTEN, rewritten
from .test_replay import finding, rows_of, written

OPTIONS = {"epochs": 4, "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture
def start(tiny_model: Path, data_file: Path, adapter: Path, tmp_path: Path) -> Path:
    """An adapter of the same shape that saw six of the kept records."""
    line = Lineage.read(adapter)
    assert line is not None
    half = written(tmp_path / "half.jsonl", rows_of(data_file)[6:])
    finetune(
        tiny_model,
        half,
        tmp_path / "start",
        options={"max_steps": 3, "learning_rate": 1e-2, "batch_size": 2},
        lora=line.finetuned_with["lora"],
        template=line.template,
        progress=False,
    )
    return tmp_path / "start"


@pytest.fixture
def warm(tiny_model: Path, data_file: Path, adapter: Path, start: Path, tmp_path: Path) -> Path:
    """An adapter that was retrained from that one."""
    options: dict[str, Any] = {"budget": 0.5}
    forget(
        tiny_model,
        data_file,
        FORGOTTEN,
        tmp_path / "warm",
        adapter=adapter,
        method="retrain",
        start=start,
        options=options,
        progress=False,
    )
    return tmp_path / "warm"


def again(folder: Path, data: Path, **more: Any) -> Replay:
    return replay(folder, data, quiet=True, **more)


@pytest.mark.usefixtures("in_this_process")
def test_what_began_with_another_is_replayed_with_that_one(
    warm: Path, start: Path, data_file: Path, tmp_path: Path
) -> None:
    result = again(warm, data_file)
    assert (result.outcome, result.kind) == ("PASS", "exact"), result.words
    assert finding(result, "start")[0] is True
    # moved: asked for by name
    moved = start.rename(tmp_path / "moved")
    result = again(warm, data_file)
    assert result.outcome == "INCONCLUSIVE"
    assert "does not lie at" in result.words
    assert "--start" in result.words
    assert again(warm, data_file, start=moved).outcome == "PASS"
    # and another one is not it
    result = again(warm, data_file, start=warm)
    assert "is not the adapter that training began with" in result.words


@pytest.mark.usefixtures("in_this_process")
def test_the_old_adapter_beside_the_lineage_of_another_is_no_start(
    warm: Path, start: Path, adapter: Path, data_file: Path
) -> None:
    """Who begins with the old adapter, and lets its lineage say otherwise, is found out."""
    shutil.copy(adapter / "adapter_model.safetensors", start / "adapter_model.safetensors")
    rewritten(start)
    forged = Lineage.read(start)
    line = Lineage.read(warm)
    assert forged is not None
    assert line is not None
    assert line.start is not None
    rewritten(warm, start=line.start.model_copy(update={"digest": forged.digest}))
    result = again(warm, data_file)
    assert result.outcome == "INCONCLUSIVE"
    assert finding(result, "start")[0] is None
    assert "training again gave other weights" in result.words


@pytest.mark.usefixtures("in_this_process")
def test_a_start_that_saw_a_forgotten_record_fails(
    warm: Path, start: Path, data_file: Path
) -> None:
    line, begun = Lineage.read(warm), Lineage.read(start)
    assert line is not None
    assert begun is not None
    seen = [*begun.records.trained, *line.records.forgotten]
    rewritten(start, records=begun.records.model_copy(update={"trained": seen}))
    result = again(warm, data_file)
    assert result.outcome == "FAIL"
    assert "what training began with saw 2 of the forgotten records" in result.words


@pytest.mark.usefixtures("in_this_process")
def test_planted_canaries_are_trained_on_again(
    tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    planted = tmp_path / "planted"
    options = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}
    finetune(tiny_model, data_file, planted, canaries=4, options=options, progress=False)
    file = beside(planted)
    result = again(planted, data_file, canaries=file)
    assert finding(result, "weights")[0] is True
    cleaned = tmp_path / "cleaned"
    forget(
        tiny_model,
        data_file,
        FORGOTTEN,
        cleaned,
        adapter=planted,
        canaries=file,
        with_canaries=2,
        options={"quality": 10.0},
        progress=False,
    )
    result = again(cleaned, data_file, canaries=file)
    assert (result.outcome, result.kind) == ("PASS", "exact"), result.words
    assert len(result.records["forgotten"]) == 4
    # without their file nobody can, and the result names what is missing
    result = again(cleaned, data_file)
    assert result.outcome == "INCONCLUSIVE"
    assert "name their file with --canaries" in result.words
    text = json.loads(file.read_text())
    file.write_text(json.dumps(text | {"created": "another day"}))
    with pytest.raises(LineageError, match="is not the file of canaries"):
        again(cleaned, data_file, canaries=file)


@pytest.mark.slow
def test_a_budget_that_was_found_out_is_replayed_in_a_fresh_process(
    tiny_model: Path, data_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a search, the replay trains the stages that made the weights, and not the tries."""
    rows = rows_of(data_file) * 4
    data = written(
        tmp_path / "more.jsonl",
        [{**row, "id": f"r{i}", "prompt": f"{row['prompt']} {i}"} for i, row in enumerate(rows)],
    )
    old, cleaned = tmp_path / "old", tmp_path / "cleaned"
    finetune(tiny_model, data, old, options={**OPTIONS, "epochs": 8}, progress=False)
    options = {"quality": 0.05}
    line = forget(
        tiny_model, data, "r0,r12", cleaned, adapter=old, options=options, progress=False
    ).lineage
    assert line.budget["asked"] == "auto"
    assert line.budget["tries"]
    output = tmp_path / "replay"
    words = ["replay", str(cleaned), "--data", str(data), "--output", str(output)]
    code = run(words)
    told = json.loads((output / "replay.json").read_text())
    weights = next(each for each in told["findings"] if each["what"] == "weights")
    assert weights["passed"] is True
    assert "bit by bit" in weights["words"]
    open_ = {each["what"] for each in told["findings"] if each["passed"] is not True}
    assert open_ <= {"kept loss"}
    assert code == (4 if open_ else 0)
