"""The model card of what is saved: how it was made, no text of records, names that stay names."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from unlearn import forget
from unlearn.provenance.lineage import Base, Lineage, RecordDigests
from unlearn.runs.card import model_card


def test_a_saved_adapter_has_a_card_of_ours(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    options = {"max_steps": 1, "batch_size": 2}
    result = forget(
        tiny_model, data_file, "r1", tmp_path / "o", adapter=adapter, method="npo", options=options
    )
    text = (result.folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == str(tiny_model)
    assert front["library_name"] == "peft"
    for words in ("`npo`", "take 1 record out", "No audit was made when this was written", "seed"):
        assert words in text
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    for row in rows:
        assert row["prompt"] not in text
        assert row["completion"] not in text
        assert row["subject"] not in text
    line = json.loads((result.folder / "lineage.json").read_text())
    assert all(digest not in text for digest in line["records"]["trained"])
    assert "More Information Needed" not in text


@pytest.mark.parametrize(
    "name", ["a`b``c", "x\n---\n# Heading", 'q": {z}\ntags: [evil]', "<script>", "\x1b[31m\u2028"]
)
def test_names_stay_names(name: str) -> None:
    line = Lineage(
        created="2026-01-01T00:00:00+00:00",
        verb="forget",
        base=Base(name=name, digest="sha256:0"),
        digest="sha256:1",
        kind="adapter",
        records=RecordDigests(key_id="k"),
        template="Ann said: {prompt}{completion}",
        method=name,
        options={},
        seed=0,
    )
    net = SimpleNamespace(
        get_input_embeddings=lambda: SimpleNamespace(weight=SimpleNamespace(shape=(3, 2)))
    )
    state: Any = SimpleNamespace(frozen=(), reading=None, base_rows=3, model=net)
    text = model_card(line, state)
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == name
    assert "machine-unlearning" in yaml.safe_load(front)["tags"]
    assert "Ann said" not in text
    assert "\n# Heading" not in body
    assert "\x1b" not in body
    headings = [row for row in body.splitlines() if row.startswith("#")]
    assert len(headings) == 4
