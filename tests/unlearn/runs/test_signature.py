"""A run is gone on with only where everything that decides its weights is as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from unlearn import finetune, forget
from unlearn.errors import OutputError
from unlearn.provenance.keys import Key
from unlearn.runs import signature as signatures
from unlearn.runs.references import train_references
from unlearn.runs.signature import differences

Change = Callable[[Path, dict[str, Any], pytest.MonkeyPatch], None]

OPTIONS = {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-2, "save_steps": 2}
CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def kill(done: int, _: int) -> None:
    if done == 3:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def place(
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    holdout_file: Path,
    lineage_key: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with a chat model, an adapter, data, and checkpoints of two killed runs."""
    root = tmp_path_factory.mktemp("place")
    shutil.copytree(tiny_model, root / "model")
    (root / "model" / "chat_template.jinja").write_text(CHAT)
    shutil.copytree(adapter, root / "adapter")
    for file in (data_file, holdout_file):
        shutil.copy(file, root / file.name)
    write(
        root / "other.jsonl", [row | {"completion": "I do not know."} for row in rows_of(data_file)]
    )
    patch = pytest.MonkeyPatch()
    patch.setenv("UNLEARN_KEY", lineage_key)
    for run in (run_finetune, run_forget):
        with pytest.raises(KeyboardInterrupt):
            run(root, progress=kill)
    patch.undo()
    return root


def run_finetune(root: Path, **given: Any) -> Any:
    options = {"options": OPTIONS, "lora": {"r": 4}, "template": "chat", "seed": 1} | given
    return finetune(root / "model", root / "records.jsonl", root / "made", **options)


def run_forget(root: Path, **given: Any) -> Any:
    options: dict[str, Any] = {
        "adapter": root / "adapter",
        "method": "dpo",
        "options": OPTIONS | {"alternates": str(root / "other.jsonl"), "stop": "none"},
        "holdout": root / "holdout.jsonl",
        "template": "qa",
        "seed": 1,
    }
    ids = given.pop("ids", "r0,r1")
    return forget(root / "model", root / "records.jsonl", ids, root / "gone", **(options | given))


def of_rows(name: str, change: Callable[[list[dict[str, Any]]], Any]) -> Change:
    def apply(root: Path, given: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
        rows = rows_of(root / name)
        change(rows)
        write(root / name, rows)

    return apply


def given(**options: Any) -> Change:
    return lambda root, made, patch: made.update(options)


def of_text(name: str, old: str, new: str) -> Change:
    def apply(root: Path, given: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return apply


def of_weights(name: str) -> Change:
    def apply(root: Path, given: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
        weights = load_file(root / name)
        first = next(iter(weights))
        weights[first] = weights[first] + 1e-3
        save_file(weights, root / name, {"format": "pt"})
        line = root / "adapter" / "lineage.json"  # it names its base
        told = json.loads(line.read_text())
        told["base"]["digest"] = signatures.weights_digest(root / "model")
        line.write_text(json.dumps(told))

    return apply


def patched(where: str, value: Any) -> Change:
    return lambda root, made, patch: patch.setattr(where, value)


def another_key(root: Path, given: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    patch.setenv("UNLEARN_KEY", "ab" * 32)
    line = root / "adapter" / "lineage.json"  # made under another key it would be refused
    told = json.loads(line.read_text())
    told["records"]["key_id"] = Key.load().id
    line.write_text(json.dumps(told))


VERSIONS = "unlearn.runs.signature.library_versions"

BOTH: dict[str, tuple[Change, str]] = {
    "option": (given(options=OPTIONS | {"learning_rate": 2e-2}), "learning_rate"),
    "batch": (given(options=OPTIONS | {"batch_size": 2}), "batch_size"),
    "seed": (given(seed=2), r"seed \(1 there, 2 now\)"),
    "template": (given(template="instruction"), "template"),
    "base": (of_weights("model/model.safetensors"), "base weights"),
    "config": (of_text("model/config.json", "1e-06", "1e-05"), "base"),
    "tokenizer": (of_text("model/tokenizer_config.json", "{", '{"x": 1,'), "tokenizer"),
    "versions": (patched(VERSIONS, lambda: {"torch": "1.0"}), "versions.torch"),
    "threads": (patched("unlearn.runs.signature.torch.get_num_threads", lambda: 7), "threads .* 7"),
    "processes": (patched("unlearn.runs.signature.world_size", lambda: 2), "processes"),
    "split": (patched("unlearn.runs.signature.splitting", lambda: "FSDP"), "weights split by"),
    "dtype": (given(dtype="bfloat16"), "number types"),
    "key": (another_key, "key"),
}  # fmt: skip

FINETUNE = BOTH | {
    "one record": (
        of_rows("records.jsonl", lambda rows: rows[3].update(completion="No.")),
        "training records",
    ),
    "one fewer": (of_rows("records.jsonl", lambda rows: rows.pop()), "training records"),
    "another order": (of_rows("records.jsonl", lambda rows: rows.reverse()), "training records"),
    "exclude": (given(exclude="r0"), "training records"),
    "chat template": (of_text("model/chat_template.jinja", "</s>", "!</s>"), "chat template"),
    "lora": (given(lora={"r": 2}), r"lora\.r"),
    "whole": (given(full=True, lora={}), "lora"),
    "length": (given(options=OPTIONS | {"max_length": 100}), "max_length"),
}

FORGET = BOTH | {
    "forget": (given(ids="r0,r2"), "forget records"),
    "retain": (
        of_rows("records.jsonl", lambda rows: rows[5].update(completion="No.")),
        "retain records",
    ),
    "fewer to retain": (of_rows("records.jsonl", lambda rows: rows.pop()), "retain records"),
    "holdout": (
        of_rows("holdout.jsonl", lambda rows: rows[0].update(completion="No.")),
        "holdout records",
    ),
    "no holdout": (given(holdout=None), "holdout records"),
    "alternates": (
        of_rows("other.jsonl", lambda rows: rows[0].update(completion="No.")),
        "alternate tokens",
    ),
    "method": (given(method="npo", options=OPTIONS), "method"),
    "adapter": (of_weights("adapter/adapter_model.safetensors"), "adapters"),
    "scale": (
        of_text("adapter/adapter_config.json", '"lora_alpha": 8', '"lora_alpha": 9'),
        "adapters",
    ),
}


def refused(
    run: Callable[..., Any], change: Change, words: str, root: Path, patch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}
    change(root, made, patch)
    if "options" in made and "method" not in made and run is run_forget:
        made["options"] |= {"alternates": str(root / "other.jsonl"), "stop": "none"}
    with pytest.raises(OutputError, match="checkpoints of a run with other options") as error:
        run(root, **made)
    text = str(error.value)
    assert "\n" not in text
    assert ".checkpoints" in text
    assert "delete the folder" in text
    with pytest.raises(OutputError, match=words):
        run(root, **made)


@pytest.fixture
def copied(place: Path, tmp_path: Path, lineage_key: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    return Path(shutil.copytree(place, tmp_path / "copy"))


@pytest.mark.parametrize("fact", FINETUNE)
def test_finetune_refuses_checkpoints_when_one_fact_differs(
    fact: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(run_finetune, *FINETUNE[fact], copied, monkeypatch)


@pytest.mark.parametrize("fact", FORGET)
def test_forget_refuses_checkpoints_when_one_fact_differs(
    fact: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fact == "alternates":
        # the path of the answers is an option: the same file with another content
        run = copied / ".gone.checkpoints" / "run.json"
        told = json.loads(run.read_text())
        told["options"]["alternates"] = str(copied / "other.jsonl")
        run.write_text(json.dumps(told))
    refused(run_forget, *FORGET[fact], copied, monkeypatch)


@pytest.mark.parametrize("run", [run_finetune, run_forget])
def test_what_is_the_same_is_gone_on_with_to_the_same_bits(
    run: Callable[..., Any], place: Path, copied: Path
) -> None:
    steps: list[int] = []
    more: dict[str, Any] = {}
    if run is run_forget:
        more["options"] = OPTIONS | {"alternates": str(place / "other.jsonl"), "stop": "none"}
    resumed = run(copied, progress=lambda done, _: steps.append(done), **more)
    assert steps == [3, 4]
    shutil.rmtree(resumed.folder)
    whole = run(copied, **more)
    assert whole.lineage.digest == resumed.lineage.digest


def test_checkpoints_of_an_unknown_run_are_refused(copied: Path) -> None:
    (copied / ".made.checkpoints" / "run.json").write_text("{")
    with pytest.raises(OutputError, match="nothing says of what run"):
        run_finetune(copied)


def test_where_nothing_could_be_resumed_a_run_begins_afresh(copied: Path) -> None:
    for state in (copied / ".made.checkpoints").glob("*/unlearn_state.json"):
        state.unlink()  # written last: the checkpoints are cut short
    steps: list[int] = []
    run_finetune(copied, seed=2, progress=lambda done, _: steps.append(done))
    assert steps == [1, 2, 3, 4]


def test_no_text_of_a_record_stands_beside_checkpoints(place: Path) -> None:
    for name in (".made.checkpoints", ".gone.checkpoints"):
        text = (place / name / "run.json").read_text()
        for row in [*rows_of(place / "records.jsonl"), *rows_of(place / "other.jsonl")]:
            assert row["prompt"] not in text
            assert row["completion"] not in text


REFERENCES: dict[str, tuple[Change, str]] = {
    "order": (of_rows("records.jsonl", lambda rows: rows.reverse()), "training records"),
    "chat template": (of_text("model/chat_template.jinja", "</s>", "!</s>"), "chat template"),
    "tokenizer": (of_text("model/tokenizer_config.json", "{", '{"x": 1,'), "tokenizer"),
    "base": (of_weights("model/model.safetensors"), "base model"),
    "versions": (patched(VERSIONS, lambda: {"torch": "1.0"}), "versions.torch"),
    "dtype": (given(dtype="bfloat16"), "number types"),
    "record": (of_rows("records.jsonl", lambda rows: rows[5].update(completion="No.")), "records"),
    "option": (given(options={"max_steps": 1}), "setting"),
}


@pytest.mark.parametrize("fact", REFERENCES)
def test_references_are_kept_only_when_made_alike(
    fact: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(**given: Any) -> Any:
        common = {"forget": "r0", "count": 1, "template": "chat", "options": {"max_steps": 2}}
        where = (copied / "model", copied / "records.jsonl", copied / "references")
        return train_references(*where, **(common | given))

    assert train().kept == 0
    assert train().kept == 1
    monkeypatch.setattr("unlearn.runs.signature.torch.get_num_threads", lambda: 7)
    assert train().kept == 1  # which only rounds otherwise
    change, words = REFERENCES[fact]
    made: dict[str, Any] = {}
    change(copied, made, monkeypatch)
    with pytest.raises(OutputError, match=words):
        train(**made)
    assert train(overwrite=True, **made).kept == 0


def test_differences_are_named_with_their_values_where_they_are_short() -> None:
    there = {"a": {"x": 1, "y": "long" * 20}, "b": [1], "c": "same", "t records": 1, "t tokens": 1}
    wanted = {"a": {"x": 2, "y": "long"}, "b": [1], "c": "same", "d": None} | {
        "t records": "r" * 50,
        "t tokens": "s" * 50,
    }
    assert differences(there, wanted) == ["a.x (1 there, 2 now)", "a.y", "t records"]
    assert differences(there, there) == []
    assert differences({"t tokens": 1}, {"t tokens": "s" * 50}) == ["t tokens"]
