"""`shards.json` is read strictly: what is not whole is no folder of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn.errors import LineageError
from unlearn.provenance.lineage import Base, now
from unlearn.shards.files import FILE, Cost, Shard, Shards, is_sharded

DIGEST = "sha256:" + "0" * 64
ON = Shard(
    state="on",
    digest=DIGEST,
    seed=1,
    records=4,
    units=2,
    whole=Cost(tokens=10, seconds=1.5, records=4),
)


def shards(*each: Shard) -> Shards:
    return Shards(
        schema=1,
        created=now(),
        key_id="0" * 12,
        base=Base(name="base", digest=DIGEST),
        by="subject",
        seed=0,
        template="qa",
        made_with={"training": {}, "lora": {}},
        shards=list(each),
        digest=Shards.of(each),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    off = ON.model_copy(update={"state": "off", "digest": None, "before": DIGEST, "pending": ["a"]})
    shards(ON, off).write(tmp_path)
    assert Shards.read(tmp_path) == shards(ON, off).model_copy(
        update={"created": Shards.read(tmp_path).created}
    )
    assert is_sharded(tmp_path)
    assert is_sharded([str(tmp_path)])
    assert not is_sharded([tmp_path, tmp_path])
    assert not is_sharded(None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema"),
        ({"other": 1}, "other"),
        ({"seed": "0"}, "seed"),
        ({"digest": "sha256:" + "1" * 64}, "not that of its shards"),
        ({"touched": [7]}, "no such shard"),
        ({"shards": []}, "shards"),
    ],
)
def test_what_is_otherwise_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    shards(ON).write(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(content | change))
    with pytest.raises(LineageError, match=words):
        Shards.read(tmp_path)


@pytest.mark.parametrize("change", [{"state": "off"}, {"digest": None}, {"pending": ["a"]}])
def test_a_shard_has_weights_where_it_is_on(tmp_path: Path, change: dict[str, Any]) -> None:
    shards(ON).write(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    content["shards"][0] |= change
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(LineageError, match=r"shards\.json is no shards\.json of schema 1: shards"):
        Shards.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1, "schema": 1}', "[" * 5000])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(LineageError, match="is no folder of shards"):
        Shards.read(tmp_path)


def test_a_folder_without_it_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LineageError, match="`unlearn finetune --shards` makes one"):
        Shards.read(tmp_path)
