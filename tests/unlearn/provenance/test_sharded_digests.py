"""A digest of a folder of shards is one of all its shards, and of nothing else that lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn.provenance.digests import model_files, settings_digest, weight_files, weights_digest
from unlearn_eval.certificate.files import deciding_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, a third that was dropped, and their tables."""
    for name, weights in (("shard-00", b"a"), ("shard-01", b"b"), ("shard-02", None)):
        place = tmp_path / name
        place.mkdir()
        (place / "adapter_config.json").write_text(name)
        (place / "lineage.json").write_text("{}")
        if weights is not None:
            (place / "adapter_model.safetensors").write_bytes(weights)
    (tmp_path / "shards.json").write_text("{}")
    (tmp_path / "router.json").write_text("{}")
    return tmp_path


def test_it_is_made_of_all_shards(folder: Path) -> None:
    names = ["shard-00/adapter_model.safetensors", "shard-01/adapter_model.safetensors"]
    assert list(weight_files(folder)) == names
    configs = [f"shard-0{i}/adapter_config.json" for i in range(3)]
    assert set(model_files(folder)) == {*names, *configs, "router.json", "shards.json"}
    assert set(deciding_files(folder)) == set(model_files(folder))


def test_an_exchanged_a_changed_an_added_and_a_dropped_shard_change_it(folder: Path) -> None:
    first, second = (folder / f"shard-0{i}" / "adapter_model.safetensors" for i in (0, 1))
    seen = [weights_digest(folder)]
    first.write_bytes(b"b")
    second.write_bytes(b"a")
    seen.append(weights_digest(folder))
    first.write_bytes(b"c")
    seen.append(weights_digest(folder))
    (folder / "shard-02" / "adapter_model.safetensors").write_bytes(b"d")
    seen.append(weights_digest(folder))
    for file in (first, second, folder / "shard-02" / "adapter_model.safetensors"):
        file.unlink()
        seen.append(weights_digest(folder))  # the last of a folder of which all are dropped
    assert len(set(seen)) == len(seen)


def test_tables_and_configurations_decide_and_lineages_do_not(folder: Path) -> None:
    weights, settings = weights_digest(folder), settings_digest(folder)
    (folder / "shard-00" / "lineage.json").write_text("[]")
    (folder / "deletion.json").write_text("[]")
    assert settings_digest(folder) == settings
    for name in ("router.json", "shards.json", "shard-02/adapter_config.json"):
        (folder / name).write_text("other")
        assert settings_digest(folder) != settings
        settings = settings_digest(folder)
    assert weights_digest(folder) == weights


def test_folders_below_count_nowhere_else(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "shards.json").unlink()
    assert list(weight_files(folder)) == ["model.safetensors"]
    assert set(model_files(folder)) == {"model.safetensors"}
