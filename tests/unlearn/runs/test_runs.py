"""Whole runs in Python: full fine-tunes, conversations, sequences of requests, suppression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from unlearn import Records, finetune, forget
from unlearn.errors import DataError, LineageError, SuppressedError
from unlearn.model.state import open_model
from unlearn.provenance.lineage import Lineage
from unlearn.runs.references import train_references
from unlearn_eval import run_audit

QUICK = {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-2}


@pytest.fixture
def full_model(tiny_model: Path, data_file: Path, tmp_path: Path) -> Path:
    return finetune(tiny_model, data_file, tmp_path / "full", full=True, options=QUICK).folder


@pytest.mark.parametrize(
    "method",  # "npo" asks the model before but once, "kl_min" in each step
    [pytest.param("npo", marks=pytest.mark.slow), "kl_min", "task_vector", "retrain"],
)
def test_a_full_fine_tune_can_forget(
    method: str, full_model: Path, data_file: Path, holdout_file: Path, tmp_path: Path
) -> None:
    result = forget(full_model, data_file, "r0,r1", tmp_path / "out", method=method, options=QUICK)
    assert result.lineage.kind == "full"
    new, old = (load_file(f / "model.safetensors") for f in (result.folder, full_model))
    assert any(not torch.equal(new[name], old[name]) for name in old)
    audit = run_audit(result.folder, data_file, "r0,r1", before=full_model, holdout=holdout_file)
    assert list(audit.states) == ["before", "after"]
    assert audit.states["before"] != audit.states["after"]


def test_conversations_go_through_the_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    model = tmp_path / "chat-model"
    shutil.copytree(tiny_model, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    tokenizer.save_pretrained(model)
    rows = [
        {
            "id": f"c{i}",
            "messages": [
                {"role": "user", "content": f"Question {i}?"},
                {"role": "assistant", "content": f"Answer {i * 7}."},
            ],
        }
        for i in range(6)
    ]
    data = Records.from_rows(rows)
    adapter = finetune(model, data, tmp_path / "a", options=QUICK)
    assert adapter.lineage.template == "chat"
    result = forget(model, data, "c1", tmp_path / "b", adapter=adapter.folder, options=QUICK)
    assert result.lineage.template == "chat"
    assert result.after["forget"].n == 1


def test_a_conversation_among_the_kept_records_is_no_less_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    turns = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Ann."}]
    asked = [{"id": f"q{i}", "prompt": f"Question {i}?", "completion": "Ann."} for i in range(4)]
    mixed = Records.from_rows([*asked, {"id": "c", "messages": turns}])
    made = finetune(tiny_model, mixed, tmp_path / "a", template="roles", options=QUICK)
    common: dict[str, Any] = {"adapter": made.folder, "options": QUICK}
    # what is taken out is no conversation, and what is kept is one
    result = forget(tiny_model, mixed, "q1", tmp_path / "b", **common)
    assert result.lineage.template == "roles"
    with pytest.raises(DataError, match="record 'c' is a conversation.*--template roles"):
        forget(tiny_model, mixed, "q1", tmp_path / "c", template="qa", **common)
    (made.folder / "lineage.json").unlink()
    with pytest.raises(DataError, match="record 'c' is a conversation.*no chat template"):
        forget(tiny_model, mixed, "q1", tmp_path / "c", **common)


def test_requests_one_after_another(
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    lineage_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    options = QUICK | {"regime": "memorised"}
    common: dict[str, Any] = {"options": options, "method": "pilot"}
    one = forget(tiny_model, data_file, "r0", tmp_path / "1", adapter=adapter, **common)
    two = forget(tiny_model, data_file, "r5", tmp_path / "2", adapter=one.folder, **common)
    assert two.lineage.parent == one.lineage.digest
    assert len(two.lineage.records.forgotten) == 2
    # what came first can still be repeated exactly, from the settings handed down
    three = forget(
        tiny_model, data_file, "r5", tmp_path / "3", adapter=two.folder, method="retrain"
    )
    assert three.fit.steps == 6
    assert three.lineage.parent is None
    # and what the first one took out stays out, though the data still holds it
    assert any("'r0': they are not learned again" in note for note in three.notes)
    assert len(three.lineage.records.trained) == 10
    assert not set(three.lineage.records.trained) & set(three.lineage.records.forgotten)


def test_retrain_is_the_training_without_the_records(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    again = forget(
        tiny_model, data_file, "r0,r1", tmp_path / "again", adapter=adapter, method="retrain"
    )
    fresh = finetune(
        tiny_model,
        data_file,
        tmp_path / "fresh",
        exclude="r0,r1",
        lora={"r": 4, "lora_alpha": 8},
        options={"learning_rate": 1e-2, "max_steps": 6, "batch_size": 4},
    )
    one, two = (load_file(r.folder / "adapter_model.safetensors") for r in (again, fresh))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_suppressed_records_are_never_trained_on_again(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    done = forget(
        tiny_model, data_file, "r2", tmp_path / "out", adapter=adapter, options=QUICK, suppress=True
    )
    assert any("suppression list" in note for note in done.notes)
    with pytest.raises(SuppressedError, match="'r2'.*; leave them out with --exclude$"):
        finetune(tiny_model, data_file, tmp_path / "again", options=QUICK)
    # nor as a record to retain, nor by a reference; these have no --exclude
    with pytest.raises(SuppressedError, match="'r2'.*; leave them out of the data$"):
        train_references(tiny_model, data_file, tmp_path / "references", forget="r3")
    with pytest.raises(SuppressedError, match="'r2'.* of the data and of --retain, or name them"):
        forget(tiny_model, data_file, "r3", tmp_path / "b", adapter=adapter, options=QUICK)
    finetune(tiny_model, data_file, tmp_path / "again", exclude="r2", options=QUICK)


@pytest.mark.parametrize("method", ["grad_ascent", "retrain"])
def test_a_lineage_under_another_key_is_refused(
    method: str,
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", "cd" * 32)
    target = tmp_path / "out"
    with pytest.raises(LineageError, match="was made with the key") as caught:
        forget(tiny_model, data_file, "r0", target, adapter=adapter, method=method)
    assert str(adapter) in str(caught.value)
    assert "set UNLEARN_KEY" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_no_text_of_a_record_reaches_the_lineage(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    done = forget(tiny_model, data_file, "r2", tmp_path / "out", adapter=adapter, options=QUICK)
    text = (done.folder / "lineage.json").read_text()
    for record in Records.load(data_file):
        assert record.prompt is not None
        assert record.prompt not in text
        assert str(record.completion) not in text
        assert f'"{record.id}"' not in text
    assert Lineage.read(done.folder) == done.lineage


def test_a_foreign_adapter_works_without_lineage(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(adapter, bare, ignore=shutil.ignore_patterns("lineage.json", "README.md"))
    done = forget(tiny_model, data_file, "r0", tmp_path / "out", adapter=bare, options=QUICK)
    assert any("--template" in note for note in done.notes)
    with pytest.raises(LineageError, match="learning_rate"):
        forget(tiny_model, data_file, "r0", tmp_path / "r", adapter=bare, method="retrain")
    again = forget(
        tiny_model, data_file, "r0", tmp_path / "r", adapter=bare, method="retrain", options=QUICK
    )
    # what it was trained with is known from now on
    assert again.lineage.options["learning_rate"] == QUICK["learning_rate"]
    assert again.lineage.finetuned_with["training"]["max_steps"] == QUICK["max_steps"]


def test_retain_can_be_given_when_the_data_is_gone(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    done = forget(
        tiny_model,
        Records.from_rows(rows[:2]),
        "rows:0-1",
        tmp_path / "out",
        adapter=adapter,
        retain=Records.from_rows(rows[2:8]),
        options=QUICK,
    )
    assert done.after["retain"].n == 6
    assert done.after["forget"].n == 2


def test_a_run_killed_in_training_goes_on_from_its_checkpoint(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    options = {"max_steps": 6, "batch_size": 2, "save_steps": 2, "stop": "none"}

    class Killed(Exception):
        pass

    def kill(done: int, _: int) -> None:
        if done == 5:
            raise Killed

    common: dict[str, Any] = {"adapter": adapter, "options": options, "method": "npo"}
    with pytest.raises(Killed):
        forget(tiny_model, data_file, "r0,r1", tmp_path / "out", progress=kill, **common)
    assert not (tmp_path / "out").exists()
    seen: list[int] = []
    resumed = forget(
        tiny_model, data_file, "r0,r1", tmp_path / "out",
        progress=lambda done, _: seen.append(done), **common,
    )  # fmt: skip
    assert seen[0] == 5  # steps 1 to 4 were not done again
    whole = forget(tiny_model, data_file, "r0,r1", tmp_path / "whole", **common)
    assert resumed.lineage.digest == whole.lineage.digest
    assert not list(tmp_path.glob(".*checkpoints"))


def test_the_saved_adapter_is_the_one_that_was_measured(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    from unlearn.data.templates import Template
    from unlearn.data.tokenization import encode
    from unlearn.runs.quick_check import measure

    done = forget(
        tiny_model, data_file, "r0,r1", tmp_path / "out", adapter=adapter, method="task_vector",
        options=QUICK,
    )  # fmt: skip
    state = open_model(tiny_model, done.folder)
    chosen = encode(Records.load(data_file).take([0, 1]), state.tokenizer, Template("qa"), 128)
    assert measure(state, chosen).loss == pytest.approx(done.after["forget"].loss, rel=1e-5)


def test_a_bad_first_look_is_put_into_words() -> None:
    from unlearn.runs.quick_check import Measured, warnings_of

    good = {"forget": Measured(2.0, 0.0, 5), "retain": Measured(0.1, 0.95, 9)}
    before = {"forget": Measured(0.1, 1.0, 5), "retain": Measured(0.1, 1.0, 9)}
    unseen = {"holdout": Measured(2.0, 0.0, 9)}
    assert warnings_of(before, good | unseen) == []
    (still,) = warnings_of(before, good | {"forget": Measured(1.0, 0.2, 5)})
    assert "20% of the forget records are still recalled" in still
    (hurt,) = warnings_of(before, good | {"retain": Measured(0.9, 0.4, 9)})
    assert "100% of them were recalled word for word before, 40% now" in hurt
    (far,) = warnings_of(before, good | unseen | {"forget": Measured(9.0, 0.0, 5)})
    assert "far above" in far
