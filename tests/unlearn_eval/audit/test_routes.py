"""Records are looked for by every route through a folder of shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlearn.apps.cli import run
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import weights_digest
from unlearn.runs.sharded_finetuning import finetune_shards
from unlearn.runs.sharded_forgetting import forget_shards
from unlearn.shards.assignment import shard_of
from unlearn.shards.files import shard_name
from unlearn.shards.serving import Scored
from unlearn_eval.audit.options import AuditOptions
from unlearn_eval.audit.routes import FILE, audit_routes, recalled_anywhere

GONE = "person2"


@pytest.fixture(autouse=True)
def _key(lineage_key: str, monkeypatch: pytest.MonkeyPatch, _own_home: None) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)


@pytest.fixture(scope="module")
def made(
    tiny_model: Path, data_file: Path, lineage_key: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two shards that have learned their records, and the same without one person."""
    work = tmp_path_factory.mktemp("routes")
    options = {"learning_rate": 1e-2, "epochs": 30, "batch_size": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        finetune_shards(
            tiny_model, data_file, work / "old", shards=2, options=options,
            lora={"r": 16, "lora_alpha": 32}, progress=False,
        )  # fmt: skip
        forget_shards(
            tiny_model, data_file, f"subject:{GONE}", work / "new", adapter=work / "old",
            options={"budget": 1.0}, progress=False,
        )  # fmt: skip
    return work


def test_what_one_shard_knows_is_found_there_and_after_deletion_not(
    made: Path, tiny_model: Path, data_file: Path
) -> None:
    def audited(name: str) -> dict[str, tuple[int, float]]:
        options = AuditOptions(tiny_model, data_file, f"subject:{GONE}", adapter=made / name)
        found = audit_routes(options)
        assert found.weights == weights_digest(made / name)
        return {row.route: row.loss for row in found.rows}

    before, after = audited("old"), audited("new")
    own, other = (shard_name(abs(i - shard_of(GONE, 2, Key.load()))) for i in (0, 1))
    assert before["own"] == before[own]
    assert before[own] < before[other] - 0.5
    assert after["own"] == after[own] > before[own] + 0.5
    assert (after[other], after["base"]) == (before[other], before["base"])


def test_what_the_base_knows_is_no_shards_fault() -> None:
    def scores(*recalled: bool) -> list[Scored]:
        return [Scored(1.0, each) for each in recalled]

    base = scores(True, False, False)
    found = {"shard-00": scores(True, True, False), "shard-01": scores(False, True, False)}
    assert recalled_anywhere(found, base) == 1
    assert recalled_anywhere({}, base) == 0


def test_the_command_line_shows_routes_of_a_folder_of_shards(
    made: Path, tiny_model: Path, data_file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["audit", "--model", str(tiny_model), "--data", str(data_file), "--adapter"]
    words += [str(made / "new"), "--before", str(made / "old"), "--forget", f"subject:{GONE}"]
    assert run([*words, "--output", str(tmp_path / "audit")]) == 0
    assert "record(s) come out of some shard" in capsys.readouterr().out
    content = json.loads((tmp_path / "audit" / FILE).read_text())
    assert content["before"]["loss"] < content["rows"][0]["loss"]
    assert [row["route"] for row in content["rows"]] == ["own", "shard-00", "shard-01", "base"]
