"""A folder of shards is replayed by the shards that a deletion touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unlearn.data.records import Records
from unlearn.errors import LineageError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn.runs.sharded_finetuning import finetune_shards
from unlearn.runs.sharded_forgetting import forget_shards
from unlearn.shards.assignment import shard_of
from unlearn.shards.files import FILE, Shards, shard_name
from unlearn_eval.replay.result import Replay
from unlearn_eval.replay.run import replay
from unlearn_eval.replay.sharded import replay_shards

from .conftest import rewritten

SHARDS = 2
GONE = "person2"


@pytest.fixture(scope="module")
def made(
    tiny_model: Path,
    data_file: Path,
    lineage_key: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    work = tmp_path_factory.mktemp("sharded")
    options = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        finetune_shards(
            tiny_model, data_file, work / "old", shards=SHARDS, options=options,
            lora={"r": 4, "lora_alpha": 8}, progress=False,
        )  # fmt: skip
        for name, more in (("whole", {"budget": 1.0}), ("auto", {})):
            forget_shards(
                tiny_model, data_file, f"subject:{GONE}", work / name, adapter=work / "old",
                options=more, progress=False,
            )  # fmt: skip
    return {path.name: path for path in work.iterdir()}


@pytest.fixture
def folder(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["whole"], tmp_path / "whole"))


@pytest.fixture(autouse=True)
def _here(in_this_process: None) -> None:
    """Train in this process."""


def touched() -> int:
    return shard_of(GONE, SHARDS, Key.load())


def found(result: Replay, what: str) -> list[tuple[bool | None, str]]:
    return [(each.passed, each.words) for each in result.findings if each.what == what]


def test_the_touched_shard_is_trained_again(made: dict[str, Path], data_file: Path) -> None:
    result = replay_shards(made["whole"], data_file, quiet=True)
    assert (result.outcome, result.kind) == ("PASS", "exact"), result.words
    assert [w.partition(":")[0] for _, w in found(result, "weights")] == [shard_name(touched())]
    assert result.adapter["weights"] == weights_digest(made["whole"])
    assert len(result.records["forgotten"]) == 2
    assert "not trained again" in result.not_looked_at[-1]


def test_a_budgeted_deletion_is_replayed_too(made: dict[str, Path], data_file: Path) -> None:
    result = replay_shards(made["auto"], data_file, quiet=True)
    passed, words = found(result, "weights")[0]
    assert passed, words
    assert "bit by bit" in words


def test_the_order_of_the_file_is_of_no_matter(
    made: dict[str, Path], data_file: Path, tmp_path: Path
) -> None:
    backwards = tmp_path / "backwards.jsonl"
    backwards.write_text("".join(line + "\n" for line in data_file.read_text().splitlines()[::-1]))
    assert replay_shards(made["whole"], backwards, quiet=True).outcome == "PASS"


def test_any_shard_can_be_replayed_alone(made: dict[str, Path], data_file: Path) -> None:
    place = made["whole"] / shard_name(1 - touched())
    result = replay(place, data_file, quiet=True, forget=f"subject:{GONE}")
    assert (result.outcome, result.kind) == ("PASS", "exact"), result.words


def test_who_was_never_taken_out_fails(made: dict[str, Path], data_file: Path) -> None:
    other = next(p for p in range(6) if p != 2)
    result = replay_shards(made["whole"], data_file, quiet=True, forget=f"subject:person{other}")
    assert result.outcome == "FAIL"
    assert "saw 2 of the 2" in result.words


def test_the_old_folder_has_nothing_to_replay(made: dict[str, Path], data_file: Path) -> None:
    assert replay_shards(made["old"], data_file, quiet=True).outcome == "INCONCLUSIVE"
    result = replay_shards(made["old"], data_file, quiet=True, forget=f"subject:{GONE}")
    assert result.outcome == "FAIL"


def test_the_old_shard_in_the_place_of_the_new_is_noticed(
    made: dict[str, Path], folder: Path, data_file: Path
) -> None:
    name = shard_name(touched())
    shutil.rmtree(folder / name)
    shutil.copytree(made["old"] / name, folder / name)
    result = replay_shards(folder, data_file, quiet=True)
    assert result.outcome == "FAIL"  # its lineage says that it saw them
    assert found(result, "shards")[0][0] is False


def test_the_old_weights_under_a_lineage_that_lies_are_noticed(
    made: dict[str, Path], folder: Path, data_file: Path
) -> None:
    name, file = shard_name(touched()), "adapter_model.safetensors"
    shutil.copyfile(made["old"] / name / file, folder / name / file)
    rewritten(folder / name)
    content: dict[str, Any] = json.loads((folder / FILE).read_text())
    line = Lineage.read(folder / name)
    assert line is not None
    content["shards"][touched()]["digest"] = line.digest
    lying = Shards.model_validate({**content, "digest": _digest(content)})
    lying.write(folder)
    rewritten(folder)
    result = replay_shards(folder, data_file, quiet=True)
    assert result.outcome == "INCONCLUSIVE"
    assert found(result, "weights")[0][0] is False


def _digest(content: dict[str, Any]) -> str:
    from unlearn.shards.files import Shard

    return Shards.of([Shard.model_validate(each) for each in content["shards"]])


def test_another_key_cannot_replay(
    made: dict[str, Path], data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", "ab" * 32)
    with pytest.raises(LineageError, match="cannot be told"):
        replay_shards(made["whole"], data_file, quiet=True)


@pytest.mark.parametrize("by", ["subject", "firm"])
def test_a_shard_that_knows_the_record_and_denies_it_is_noticed(
    tiny_model: Path, data_file: Path, lineage_key: str, tmp_path: Path, by: str
) -> None:
    """One shard is trained again, and the lineage of the other says that it never saw them."""
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    data = tmp_path / "records.jsonl"
    data.write_text("".join(json.dumps({**r, "firm": r["subject"]}) + "\n" for r in rows))
    key = Key(bytes.fromhex(lineage_key))
    people = dict.fromkeys(row["subject"] for row in rows)
    honest = next(name for name in people if shard_of(name, SHARDS, key) == 0)
    denied = next(name for name in people if shard_of(name, SHARDS, key) == 1)
    options = {"learning_rate": 1e-2, "max_steps": 2, "batch_size": 2}
    finetune_shards(
        tiny_model, data, tmp_path / "old", shards=SHARDS, shard_by=by, options=options,
        lora={"r": 4, "lora_alpha": 8}, progress=False,
    )  # fmt: skip
    folder = tmp_path / "new"
    forget_shards(
        tiny_model, data, f"subject:{honest}", folder, adapter=tmp_path / "old",
        options={"budget": 1.0}, progress=False,
    )  # fmt: skip
    assert replay_shards(folder, data, quiet=True).outcome == "PASS"
    records = Records.load(data)
    lost = {key.digest(r) for r in records if r.subject == denied}
    line = Lineage.read(folder / shard_name(1))
    assert line is not None
    kept = sorted(set(line.records.trained) - lost)
    told = line.records.model_copy(update={"trained": kept})
    line.model_copy(update={"records": told}).write(folder / shard_name(1))
    content: dict[str, Any] = json.loads((folder / FILE).read_text())
    content["forgotten"] = sorted({*content["forgotten"], *lost})
    Shards.model_validate({**content, "digest": _digest(content)}).write(folder)
    whole = Lineage.read(folder)
    assert whole is not None
    trained = sorted(set(whole.records.trained) - lost)
    told = whole.records.model_copy(update={"trained": trained})
    whole.model_copy(update={"records": told}).write(folder)
    result = replay_shards(folder, data, quiet=True)
    assert result.outcome != "PASS"
    assert found(result, "assignment")[0][0] is False
    assert found(result, "shard records")[0][0] is False
